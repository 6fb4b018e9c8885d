"""Baselines on seven made-up samples in float64, and gradients of the tests' own."""

import torch
from torch.nn import Sequential, Tanh
from torch.nn.functional import cross_entropy, one_hot

from projectlib.models import Network, cnn, lif_mlp, mlp
from projectlib.models.network import affine
from projectlib.rules import (
    PHSIC,
    DirectFeedbackAlignment,
    FeedbackAlignment,
    LocalClassifier,
    SimilarityMatching,
)

EXACT = {"rtol": 1e-9, "atol": 1e-12}
NUM, CLASSES = 7, 3
RULES = {
    "feedback-alignment": FeedbackAlignment(1.7),
    "direct-feedback-alignment": DirectFeedbackAlignment(0.8),
    "local-classifier": LocalClassifier(0.9),
    "local-classifier-random": LocalClassifier(0.9, "random"),
    "similarity-matching": SimilarityMatching(),
    "phsic": PHSIC(groups=3),
}
STREAMS = [*RULES][:4]


def blocks(first, second, generator):
    """Layers of two maps each."""
    layers = [
        Sequential(affine(a, b, generator), Tanh(), affine(b, c, generator), Tanh()) for a, b, c in (first, second)
    ]
    return Network(*layers, affine(second[-1], CLASSES, generator))


NETWORKS = {
    "mlp": (lambda generator: mlp((5,), CLASSES, (12, 6), generator), (5,)),
    "cnn": (lambda generator: cnn((2, 8, 8), CLASSES, (6, 9), generator), (2, 8, 8)),
    "blocks": (lambda generator: blocks((5, 8, 12), (12, 7, 6), generator), (5,)),
    "lif": (lambda generator: lif_mlp((5,), CLASSES, (12, 6), 5e-3, 1e-3, 2, generator), (5,)),
}


def make(kind="mlp", seed=1):
    """A network, x, labels and y, in float64."""
    generator = torch.Generator().manual_seed(0)
    build, shape = NETWORKS[kind]
    x = torch.randn(NUM, *shape, dtype=torch.float64, generator=generator)
    labels = torch.arange(NUM) % CLASSES
    network = build(torch.Generator().manual_seed(seed)).double()
    return network, x, labels, one_hot(labels, CLASSES).double()


def first_state(rule, network, x, y):
    return rule.initial_state(network, x, y, torch.Generator().manual_seed(2))


def update_of(rule, network, state, x, y):
    return rule(network, network.split_parameters(), state, x, y, rule.prepare(x, y))


def assert_gradients(gradients, expected):
    torch.testing.assert_close([*gradients.values()], [*expected], **EXACT)


def gradient_of_readout(network, labels, x):
    """Of the mean cross-entropy, with what the readout receives constant."""
    h = x
    for layer in network.layers[:-1]:
        h = layer(h)
    return torch.autograd.grad(
        cross_entropy(network.layers[-1](h.detach()), labels), [*network.layers[-1].parameters()]
    )
