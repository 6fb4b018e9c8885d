"""Objectives of a plain batch, similarity matching and plausible HSIC: gradients against loops of the tests' own."""

import pytest
import torch
from baseline_samples import (
    CLASSES,
    EXACT,
    NUM,
    RULES,
    assert_gradients,
    first_state,
    gradient_of_readout,
    make,
    update_of,
)

from projectlib.models import divisive_mlp
from projectlib.rules import (
    PHSIC,
)


def cosine(a, b):
    """Of two lists of tensors, around their means, in a loop."""
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    dot = sum((p - mean_a) * (q - mean_b) for p, q in zip(a, b, strict=True))
    squares = sum((p - mean_a) ** 2 for p in a), sum((q - mean_b) ** 2 for q in b)
    return dot / (squares[0] * squares[1]) ** 0.5


def pairs(rows):
    return [[cosine(a, b) for b in rows] for a in rows]


def summaries(z, kind):
    """What is compared by similarity matching, as rows of numbers."""
    if kind == "mlp":
        return [[*row] for row in z]
    return [[(row[..., channel].flatten().var() + 1e-6).sqrt() for channel in range(z.shape[-1])] for row in z]


def groups_of(z, kind, num, power, smoothing):
    """U of pHSIC, by loops."""
    rows = []
    for row in z:
        neurons = row if kind == "mlp" else row.permute(2, 0, 1).flatten()
        size = len(neurons) // num
        members = [neurons[g * size : (g + 1) * size] for g in range(num)]
        rows.append([((smoothing + ((m - m.mean()) ** 2).sum()) / size) ** power for m in members])
    return rows


def mean(matrix):
    return sum(sum(row) for row in matrix) / NUM**2


def plausible(a, b):
    return mean([[(a[i][j] - mean(a)) * b[i][j] for j in range(NUM)] for i in range(NUM)])


def check_objective(rule, kind, objective):
    """A rule's gradients are those of ``objective(z, k_y)`` of every layer, with what the layer receives constant."""
    network, x, labels, y = make(kind)
    update = update_of(rule, network, first_state(rule, network, x, y), x, y)
    of_labels, h = pairs([[*row] for row in y]), x
    for index, layer in enumerate(network.layers[:-1]):
        z = layer(h.detach())
        expected = torch.autograd.grad(objective(z, of_labels), [*layer.parameters()])
        # a bias that moves no output has a gradient of rounding alone
        torch.testing.assert_close([*update.gradients[index].values()], [*expected], rtol=1e-7, atol=1e-9)
        assert update.gradients[index]["affine.weight" if kind == "mlp" else "conv.weight"].abs().max() > 1e-4
        h = z
    assert_gradients(update.gradients[-1], gradient_of_readout(network, labels, x))


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_similarity_matching_is_a_double_loop(kind):
    def objective(z, of_labels):
        k = pairs(summaries(z, kind))
        return mean([[(k[i][j] - of_labels[i][j]) ** 2 for j in range(NUM)] for i in range(NUM)])

    check_objective(RULES["similarity-matching"], kind, objective)


@pytest.mark.parametrize(("kind", "num"), [("mlp", 3), ("mlp", None), ("cnn", 3)])
def test_plausible_hsic_is_a_double_loop(kind, num):
    def objective(z, of_labels):
        k = pairs(groups_of(z, kind, num, 0.8, 0.3) if num else [[*row] for row in z])
        return plausible(k, k) - 1.6 * plausible(of_labels, k)

    check_objective(PHSIC(gamma=1.6, groups=num, power=0.8, smoothing=0.3), kind, objective)


def test_divisive_normalisation_is_a_loop_over_groups():
    network = divisive_mlp((5,), CLASSES, (12, 6), 3, 0.3, 0.7, torch.Generator().manual_seed(1)).double()
    x = make()[1]
    for layer, h in ((network.layers[0], x), (network.layers[1], network.layers[0](x).detach())):
        for row, a in zip(layer(h), h @ layer.affine.weight.T + layer.affine.bias, strict=True):
            size, expected = len(a) // 3, []
            for group in range(3):
                members = [v if v > 0 else 0.01 * v for v in a.tolist()[group * size : (group + 1) * size]]
                apart = [v - sum(members) / size for v in members]
                spread = (sum(v**2 for v in apart) + 0.7) / size
                expected += [v / spread**0.3 for v in apart]
            torch.testing.assert_close(row, torch.tensor(expected, dtype=torch.float64), **EXACT)
