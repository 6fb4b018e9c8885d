"""Rules and models against the steps of the published implementation."""

from copy import deepcopy

import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from projectlib.errors import UserError
from projectlib.hsic import LABEL_FORMS, hsic_bottleneck, kernel_matrix, modulation
from projectlib.models import Network, Reservoir, cnn, lif_mlp, mlp, spiking_mlp
from projectlib.modulators import DeltaModulator
from projectlib.rules import HSIC, Backprop, BioHSIC, Delta, Frozen, SimilarityMatching

TOLERANCE = {"rtol": 1e-4, "atol": 1e-6}
ADAMW = {"lr": 1e-3, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 1e-4}


def dense_layers(numbers, prefix, template="Dense_{}"):
    """Parameters of the published MLP in torch's layout; their kernels are (in, out)."""
    layers = []
    while f"{prefix}/{template.format(len(layers))}/kernel" in numbers:
        name = f"{prefix}/{template.format(len(layers))}"
        layers.append(
            {"affine.weight": numbers[f"{name}/kernel"].T.clone(), "affine.bias": numbers[f"{name}/bias"].clone()}
        )
    return layers


def conv_layers(numbers, prefix):
    """The same for the CNN on 8x8 images: kernels (3, 3, in, out)."""
    layers = [
        {
            "conv.weight": numbers[f"{prefix}/Conv_{i}/kernel"].permute(3, 2, 0, 1).contiguous(),
            "conv.bias": numbers[f"{prefix}/Conv_{i}/bias"],
        }
        for i in range(2)
    ]
    dense = {"affine.weight": numbers[f"{prefix}/Dense_0/kernel"].T, "affine.bias": numbers[f"{prefix}/Dense_0/bias"]}
    return [*layers, dense]


def train(network, rule, parameters, optimizer, numbers, num_steps):
    """The obvious loop over windows (and their time steps): losses and states after every window."""
    num = int(numbers["batch"])
    num_classes = len(parameters[-1]["affine.bias"])
    losses, states = [], []
    x, y = numbers["x"][:num], one_hot(numbers["labels"][:num], num_classes).to(numbers["x"].dtype)
    state = rule.initial_state(deepcopy(network).to(x), x, y, torch.Generator())
    for step in range(num_steps):
        x, labels = numbers["x"][step : step + num], numbers["labels"][step : step + num]
        y = one_hot(labels, num_classes).to(x.dtype)
        context = rule.prepare(x, y)
        window_losses = []
        for _ in range(network.num_timesteps):
            update = rule(network, parameters, state, x, y, context)
            for layer, gradient in zip(parameters, update.gradients, strict=True):
                for name, tensor in layer.items():
                    tensor.grad = gradient.get(name)
            optimizer.step()
            state = update.state
            window_losses.append(cross_entropy(update.outputs[-1], labels))
        losses.append(torch.stack(window_losses).mean())
        states.append(state.layers)
    return torch.stack(losses), states


def tensors(parameters):
    return [tensor for layer in parameters for tensor in layer.values()]


GENERATOR = torch.Generator()
LOCAL = {"gamma": 2.0, "sigmas": (0.5, 0.1, 1.0)}
MLP = mlp((20,), 5, (16, 8), GENERATOR)
CNN = cnn((3, 8, 8), 5, (4, 6), GENERATOR)


@pytest.mark.parametrize(
    ("name", "rule", "make_optimizer"),
    [
        ("biohsic_mlp", BioHSIC(**LOCAL), lambda p: torch.optim.AdamW(p, **ADAMW)),
        ("biohsic_mlp_sgd", BioHSIC(**LOCAL), lambda p: torch.optim.SGD(p, lr=0.1)),
        ("hsic_mlp_sgd", HSIC(**LOCAL), lambda p: torch.optim.SGD(p, lr=0.1)),
        ("bp_mlp", Backprop(), lambda p: torch.optim.AdamW(p, **ADAMW)),
    ],
)
def test_published_mlp_steps(reference, name, rule, make_optimizer):
    numbers = reference(name)
    parameters = dense_layers(numbers, "init")
    optimizer = make_optimizer(tensors(parameters))
    losses, _ = train(MLP, rule, parameters, optimizer, {**numbers}, 1)
    torch.testing.assert_close(parameters, dense_layers(numbers, "after1"), **TOLERANCE)
    rest = {**numbers, "x": numbers["x"][1:], "labels": numbers["labels"][1:]}
    more, _ = train(MLP, rule, parameters, optimizer, rest, 3)
    torch.testing.assert_close(parameters, dense_layers(numbers, "after4"), **TOLERANCE)
    torch.testing.assert_close(torch.cat([losses, more]), numbers["losses"], **TOLERANCE)


@pytest.mark.parametrize(
    ("name", "rule"),
    [("biohsic_cnn_sgd", BioHSIC(50.0, (1.0, 0.1, 0.5))), ("bp_cnn_sgd", Backprop())],
)
@pytest.mark.parametrize("num_steps", [1, 3])
def test_published_cnn_steps(reference, name, rule, num_steps):
    """In float64: after three steps at a gamma of 50 the reference's own rounding takes up most of the tolerance."""
    numbers = {key: value.double() if value.is_floating_point() else value for key, value in reference(name).items()}
    parameters = conv_layers(numbers, "init")
    images_first = {**numbers, "x": numbers["x"].permute(0, 3, 1, 2)}
    losses, _ = train(CNN, rule, parameters, torch.optim.SGD(tensors(parameters), lr=0.1), images_first, num_steps)
    torch.testing.assert_close(parameters, conv_layers(numbers, f"after{num_steps}"), **TOLERANCE)
    torch.testing.assert_close(losses, numbers["losses"][:num_steps], **TOLERANCE)


@pytest.mark.parametrize("num_steps", [1, 3])
def test_published_lif_steps_and_carried_state(reference, num_steps):
    numbers = reference("lif_xor_sgd")
    template = "LIFDenseCell_{}/i"
    network = lif_mlp((2,), 2, (10, 4), 5e-3, 1e-3, 20, GENERATOR)
    parameters = dense_layers(numbers, "init", template)
    optimizer = torch.optim.SGD(tensors(parameters), lr=float(numbers["learning_rate"]))
    rule = BioHSIC(float(numbers["gamma"]), numbers["sigmas"].tolist())
    losses, states = train(network, rule, parameters, optimizer, numbers, num_steps)
    torch.testing.assert_close(parameters, dense_layers(numbers, f"after{num_steps}", template), **TOLERANCE)
    for index, u in enumerate(states[-1]):
        torch.testing.assert_close(u, numbers[f"state{num_steps}/{index}"], **TOLERANCE)
    torch.testing.assert_close(losses, numbers["losses"][:num_steps], **TOLERANCE)


def test_published_reservoir_steps(reference):
    numbers = reference("reservoir")
    names = {"recurrent": "r", "input": "i", "feedback": "f", "readout": "o"}
    weights = {name: numbers[f"init/{key}/kernel"].T.clone() for name, key in names.items()}
    strength = float(numbers["recurrent_strength"])
    reservoir = Reservoir(13, 3, 40, strength, 0.1, 5e-3, 1e-3, 0.0, GENERATOR)
    rule = Delta(float(numbers["gamma"]), float(numbers["sigma"]))
    num, u = int(numbers["batch"]), torch.zeros(40)
    for window in range(3):
        x, y, z = (numbers[key][window : window + num] for key in "xyz")
        xi = rule.target(x, y, z)
        current = reservoir.current(weights, torch.cat([x[-1], y[-1], z[-1]]))
        loss = 0.0
        for _ in range(20):
            u, r, o = reservoir.step(weights, u, current)
            weights["readout"] -= float(numbers["learning_rate"]) * rule.gradient(r, o, xi)
            loss += (o - xi).square().mean() / 20
        torch.testing.assert_close(loss, numbers["losses"][window], **TOLERANCE)
        if window in (0, 2):
            torch.testing.assert_close(weights["readout"], numbers[f"after{window + 1}/o/kernel"].T, **TOLERANCE)
            torch.testing.assert_close(u, numbers[f"state{window + 1}"][0], **TOLERANCE)


def window_of(num, num_classes, generator):
    x = torch.randn(num, 6, dtype=torch.float64, generator=generator)
    labels = torch.randint(num_classes, (num,), generator=generator)
    return x, one_hot(labels, num_classes).double()


def test_exact_rule_descends_the_objective_with_the_rest_of_the_window_held():
    """The gradient of a layer is that of its objective with respect to its newest sample's activity alone."""
    generator = torch.Generator().manual_seed(0)
    network = mlp((6,), 3, (5,), generator).double()
    parameters = network.split_parameters()
    x, y = window_of(7, 3, generator)
    rule = BioHSIC(2.0, (0.5, 0.3, 1.0), form="exact")
    state = rule.initial_state(network, x, y, torch.Generator())
    update = rule(network, parameters, state, x, y, rule.prepare(x, y))

    layer = network.layers[0]
    z = torch.cat([layer(x[:-1]).detach(), layer(x[-1:])])
    total, _, _ = hsic_bottleneck(x, y, z, rule.gamma, rule.sigmas)
    expected = torch.autograd.grad(total, [layer.affine.weight, layer.affine.bias])
    torch.testing.assert_close([*update.gradients[0].values()], [*expected], rtol=1e-9, atol=1e-12)
    readout = network.layers[1]
    loss = cross_entropy(readout(z.detach()), y)
    expected = torch.autograd.grad(loss, [readout.affine.weight, readout.affine.bias])
    torch.testing.assert_close([*update.gradients[1].values()], [*expected], rtol=1e-9, atol=1e-12)


def test_frozen_trains_the_readout_only():
    generator = torch.Generator().manual_seed(0)
    network = mlp((6,), 3, (5, 4), generator).double()
    x, y = window_of(6, 3, generator)
    parameters = network.split_parameters()
    frozen, local = Frozen(), BioHSIC(2.0, (0.5, 0.3, 1.0))
    state = local.initial_state(network, x, y, torch.Generator())
    update = frozen(network, parameters, state, x, y, frozen.prepare(x, y))
    assert update.gradients[:2] == [{}, {}]
    other = local(network, parameters, state, x, y, local.prepare(x, y))
    torch.testing.assert_close(update.gradients[2], other.gradients[2])
    torch.testing.assert_close(update.outputs, other.outputs)


def test_the_rule_works_on_a_stack_of_layers_of_ones_own():
    generator = torch.Generator().manual_seed(0)
    block = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh())
    network = Network(block, torch.nn.Linear(5, 3)).double()
    x, y = window_of(6, 3, generator)
    rule = BioHSIC(2.0, (0.5, 0.3, 1.0))
    state = rule.initial_state(network, x, y, torch.Generator())
    update = rule(network, network.split_parameters(), state, x, y, rule.prepare(x, y))
    z = block(x)
    kernels = [kernel_matrix(a, s) for a, s in zip((x, y, z.detach()), rule.sigmas, strict=True)]
    xi = modulation(*kernels, z.detach(), rule.gamma, rule.sigmas[2])
    expected = torch.autograd.grad(z[-1] @ xi, list(block.parameters()))
    torch.testing.assert_close([*update.gradients[0].values()], [*expected], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rule", [BioHSIC(), BioHSIC(modulator=DeltaModulator(0.1, 100)), SimilarityMatching()])
def test_images_with_channels_first_are_refused(rule):
    generator = torch.Generator().manual_seed(0)
    network = Network(
        torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1024, 3))
    )
    with pytest.raises(UserError, match=r"layer 0 returns images of shape \(16, 8, 8\); expected its 16 channels last"):
        rule.initial_state(network, torch.zeros(6, 3, 8, 8), torch.zeros(6, 3), generator)


class ChannelsLast(torch.nn.Sequential):
    def forward(self, x):
        return super().forward(x).permute(0, 2, 3, 1)


@pytest.mark.parametrize("convolution", [torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.ConvTranspose2d(3, 16, 1)])
def test_channels_last_may_be_others_than_a_convolution_makes(convolution):
    layer = ChannelsLast(convolution, torch.nn.GLU(dim=1))
    network = Network(layer, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8 * 81, 3)))
    state = BioHSIC().initial_state(network, torch.zeros(6, 3, 9, 9), torch.zeros(6, 3), torch.Generator())
    assert len(state.rule) == 2


@pytest.mark.parametrize("form", LABEL_FORMS)
def test_a_reservoir_s_target_knows_labels_apart_under_any_bandwidth(form):
    """With so large a sigma kernels of all labels are 1; xi shrinks as 1 / sigma^2."""
    x, y = window_of(6, 2, torch.Generator().manual_seed(0))
    z = torch.rand(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    small, large = (Delta(2.0, sigma, form).target(x, y, z.double()) * sigma**2 for sigma in (3e3, 3e6))
    assert large.abs().max() > 1e-3
    torch.testing.assert_close(small, large, rtol=1e-4, atol=1e-7)


def test_a_modulator_is_no_name():
    with pytest.raises(UserError, match="modulator is 'delta'; expected a Modulator"):
        BioHSIC(modulator="delta")


NEURONS = {
    "leaky": lambda num: lif_mlp((4,), 3, (6, 5), 5e-3, 1e-3, num, torch.Generator().manual_seed(0)),
    "spiking": lambda num: spiking_mlp(
        (4,), 3, (6, 5), 5e-3, 1e-2, 0.2, 1e-3, 2.0, 1e-3, num, torch.Generator().manual_seed(0)
    ),
}


@pytest.mark.parametrize("neurons", NEURONS)
@pytest.mark.parametrize(("num", "second_half"), [(1, (0,)), (4, (2, 3)), (5, (2, 3, 4))])
def test_a_prediction_is_the_mean_over_the_second_half_of_the_time_steps(neurons, num, second_half):
    network = NEURONS[neurons](num).double()
    x = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    state, logits = network.initial_state(7), []
    for _ in range(num):
        outputs, state = network.run(network.split_parameters(), state, x)
        logits.append(outputs[-1])
    expected = sum(logits[step] for step in second_half) / len(second_half)
    torch.testing.assert_close(network(x), expected, rtol=1e-12, atol=1e-14)
