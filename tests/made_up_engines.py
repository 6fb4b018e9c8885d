"""Engines on made-up data: one epoch of 31 samples, cut into ranges, and what two engines must agree on."""

import torch

from projectlib.data import Augmentation, Dataset, Sampler, Split
from projectlib.ensemble import build_ensemble
from projectlib.models import cnn, lif_mlp, linear, mlp, spiking_mlp
from projectlib.rules import HSIC, PHSIC, Backprop, BioHSIC, Frozen, SimilarityMatching
from projectlib.training.metrics import HSICMonitor

SIGMAS = (0.5, 0.3, 1.0)
RULES = {
    "published": BioHSIC(2.0, SIGMAS),
    "exact": BioHSIC(2.0, SIGMAS, form="exact"),
    "parzen": BioHSIC(2.0, SIGMAS, form="parzen"),
    "contrastive": BioHSIC(2.0, SIGMAS, form="contrastive"),
    "frozen": Frozen(),
    "hsic": HSIC(2.0, SIGMAS),
    "similarity-matching": SimilarityMatching(),
    "phsic": PHSIC(gamma=1.3, groups=None),
    "backprop": Backprop(),
}
MODELS = {
    "mlp": lambda generator: mlp((7,), 3, (9, 5), generator),
    "deep": lambda generator: mlp((7,), 3, (6, 5, 4), generator),
    "wide": lambda generator: mlp((7,), 3, (48, 36), generator),
    "linear": lambda generator: linear((7,), 3, generator),
    "lif": lambda generator: lif_mlp((7,), 3, (6, 4), 5e-3, 1e-3, 3, generator),
}
EAGER_MODELS = {  # under the rules of a window
    "spiking": lambda generator: spiking_mlp((7,), 3, (90,), 5e-3, 1e-2, 0.2, 1e-3, 2.0, 1e-3, 3, generator),
}
OPTIMIZERS = {
    # eps is large enough that a gradient of rounding alone does not become a step of its own
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3, betas=(0.9, 0.99), eps=1e-5, weight_decay=1e-2, fused=True),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-3, eps=1e-5, weight_decay=1e-2, fused=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2, weight_decay=1e-2, fused=True),
}
EXACT = {"rtol": 0, "atol": 0}
FLOAT32 = {"rtol": 1e-3, "atol": 1e-5}  # after an epoch of updates, each of which agrees to 1e-6


def make_engine(
    engine_class, model="mlp", rule="published", optimizer="adamw", num_models=2, log_hsic=True, window=6, **options
):
    generator = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(31, 7, generator=generator), torch.randint(3, (31,), generator=generator)
    split = Split(inputs, labels)
    rule, make = RULES[rule], {**MODELS, **EAGER_MODELS}[model]
    ensemble = build_ensemble(make, range(num_models))
    sampler = Sampler(31, window, rule.sliding, drop_last=model in ("lif", "spiking"))
    trained = ensemble.parameters if rule.trains_hidden else ensemble.parameters[-1:]
    optimizer = OPTIMIZERS[optimizer]([p for layer in trained for p in layer.values()])
    monitor = HSICMonitor(2.0, SIGMAS) if log_hsic else None
    return engine_class(ensemble, rule, optimizer, Dataset("made up", split, split, 3), sampler, monitor, **options)


def make_image_engine(
    engine_class, rule="published", optimizer="adamw", features=(4, 6), num_models=2, augmented=True, **options
):
    generator = torch.Generator().manual_seed(0)
    split = Split(torch.randn(31, 3, 8, 8, generator=generator), torch.randint(3, (31,), generator=generator))
    augmentation = Augmentation(padding=1, flip=True, fill=(0.0, 0.0, 0.0)) if augmented else None
    ensemble = build_ensemble(lambda generator: cnn((3, 8, 8), 3, features, generator), range(num_models))
    optimizer = OPTIMIZERS[optimizer]([p for layer in ensemble.parameters for p in layer.values()])
    dataset = Dataset("made up", split, split, 3, augmentation)
    sampler = Sampler(31, 6, sliding=True, augmentation=augmentation)
    return engine_class(ensemble, RULES[rule], optimizer, dataset, sampler, HSICMonitor(2.0, SIGMAS), **options)


def train(engine, *ranges):
    """Steps of one epoch, cut into ranges; returns all that can differ."""
    engine.compile()
    epoch = engine.draw_epoch(torch.Generator().manual_seed(1))
    engine.begin_epoch()
    for start, stop in ranges:
        engine.run(epoch, start, stop)
    return engine.state_dict(), engine.metrics()


def assert_same(engine, reference, **tolerance):
    (state, metrics), (expected, expected_metrics) = engine, reference
    for key in ("parameters", "state"):
        torch.testing.assert_close(state[key], expected[key], **tolerance)
    moments, expected_moments = state["optimizer"]["state"], expected["optimizer"]["state"]
    if expected_moments or tolerance == EXACT:
        torch.testing.assert_close(moments, expected_moments, **tolerance)
    torch.testing.assert_close(metrics, expected_metrics, **tolerance)
    assert state["steps_in_epoch"] == expected["steps_in_epoch"]
