"""Baselines as rules: gradients against graphs, backward passes and loops of the tests' own, and what is refused."""

import math

import direct_feedback_alignment as example
import pytest
import torch
from baseline_samples import (
    EXACT,
    NETWORKS,
    NUM,
    RULES,
    STREAMS,
    assert_gradients,
    first_state,
    gradient_of_readout,
    make,
    update_of,
)
from torch.nn.functional import avg_pool2d, conv2d, cross_entropy, layer_norm
from torch.utils._pytree import tree_leaves, tree_map

from projectlib.ensemble import build_ensemble
from projectlib.errors import UserError
from projectlib.models import Network, cnn, divisive_mlp, mlp
from projectlib.modulators.class_means import ClassMeansModulator
from projectlib.rules import (
    HSIC,
    PHSIC,
    Backprop,
    DirectFeedbackAlignment,
    FeedbackAlignment,
    Frozen,
    LocalClassifier,
    SimilarityMatching,
)
from projectlib.rules.seen import seen_by_readout

# Gradients -------------------------------------------------------------------------------------------------------


def test_feedback_alignment_of_dense_layers_is_the_backward_pass_written_out():
    """delta = J' xi of relu and norm alone, dW = delta' h, and B, not W, carries delta on."""
    network, x, _, y = make()
    rule = RULES["feedback-alignment"]
    state = first_state(rule, network, x, y)
    update = update_of(rule, network, state, x, y)
    inputs, currents = [x], []
    for layer in network.layers:
        currents.append((inputs[-1] @ layer.affine.weight.T + layer.affine.bias).detach().requires_grad_())
        inputs.append(layer_norm(currents[-1].relu(), currents[-1].shape[1:], eps=1e-6))
    xi = (currents[-1].softmax(1) - y) / NUM
    for index in (2, 1, 0):
        delta = xi if index == 2 else torch.autograd.grad(inputs[index + 1], currents[index], xi)[0]
        assert_gradients(update.gradients[index], [delta.T @ inputs[index], delta.sum(0)])
        if index:
            xi = delta @ state.rule[index]["affine.weight"]
    assert state.rule[0] == {}


def test_feedback_alignment_of_convolutions_is_the_backward_pass_written_out():
    network, x, _, y = make("cnn")
    rule = RULES["feedback-alignment"]
    state = first_state(rule, network, x, y)
    update = update_of(rule, network, state, x, y)
    first, second, readout = network.layers
    h = avg_pool2d(first(x).permute(0, 3, 1, 2), 2).detach()
    current = conv2d(h, second.conv.weight, second.conv.bias, padding=1).detach().requires_grad_()
    z = layer_norm(current.relu().permute(0, 2, 3, 1), (9,), eps=1e-6)
    flat = avg_pool2d(z.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1).flatten(1)
    error = ((readout.affine(flat).softmax(1) - y) / NUM).detach()
    (delta,) = torch.autograd.grad(flat, current, error @ state.rule[2]["affine.weight"])
    expected = torch.nn.grad.conv2d_weight(h, second.conv.weight.shape, delta, padding=1)
    assert_gradients(update.gradients[1], [expected, delta.sum((0, 2, 3))])
    kernel = state.rule[1]["conv.weight"]
    xi = torch.nn.grad.conv2d_input(h.shape, kernel, delta, padding=1)
    pooled = avg_pool2d(first(x).permute(0, 3, 1, 2), 2)
    assert_gradients(update.gradients[0], torch.autograd.grad(pooled, [*first.parameters()], xi))


class OwnMap(torch.nn.Module):
    """A matrix that no linear map has reads the input."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Parameter(torch.ones(4, 5, dtype=torch.float64))
        self.second = torch.nn.Linear(4, 6).double()

    def forward(self, x):
        return self.second((x @ self.first.T).tanh())


class Gated(torch.nn.Module):
    """Two maps of the input."""

    def __init__(self):
        super().__init__()
        self.value, self.gate = torch.nn.Linear(5, 6).double(), torch.nn.Linear(5, 6).double()

    def forward(self, x):
        return self.value(x) * self.gate(x).sigmoid()


@pytest.mark.parametrize(("layer", "names"), [(OwnMap, ["second.weight"]), (Gated, [])])
def test_feedback_is_for_all_maps_but_those_of_the_input(layer, names):
    network = Network(layer(), torch.nn.Linear(6, 3).double())
    _, x, _, y = make()
    state = first_state(RULES["feedback-alignment"], network, x, y)
    assert [[*matrices] for matrices in state.rule] == [names, ["weight"]]


@pytest.mark.parametrize("channels", [1, 3])
def test_images_that_are_copied_before_the_first_map_are_the_input_too(channels):
    network = cnn((channels, 16, 16), 3, (4, 5), torch.Generator().manual_seed(0))
    state = first_state(RULES["feedback-alignment"], network, torch.zeros(2, channels, 16, 16), torch.zeros(2, 3))
    assert [[*matrices] for matrices in state.rule] == [[], ["conv.weight"], ["affine.weight"]]
    assert not any(leaf.requires_grad for leaf in tree_leaves(state.rule))


@pytest.mark.parametrize("kind", NETWORKS)
def test_feedback_alignment_with_the_weights_themselves_is_back_propagation(kind):
    network, x, _, y = make(kind)
    rule, backprop = RULES["feedback-alignment"], Backprop()
    state = first_state(rule, network, x, y)
    own = [
        {name: weights[name] for name in matrices}
        for weights, matrices in zip(network.split_parameters(), state.rule, strict=True)
    ]
    update = update_of(rule, network, state._replace(rule=own), x, y)
    other = update_of(backprop, network, first_state(backprop, network, x, y), x, y)
    torch.testing.assert_close(update.gradients, other.gradients, **EXACT)
    torch.testing.assert_close(update.outputs, other.outputs, **EXACT)
    random = update_of(rule, network, state, x, y)
    assert not torch.allclose(tree_leaves(random.gradients[0])[0], tree_leaves(other.gradients[0])[0])
    torch.testing.assert_close(random.gradients[-1], other.gradients[-1], **EXACT)


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_direct_feedback_alignment_sends_the_error_through_its_own_matrix(kind):
    """Against a surrogate, what the next layer reads of z times B e; B and e are constant."""
    network, x, labels, y = make(kind)
    rule = RULES["direct-feedback-alignment"]
    state = first_state(rule, network, x, y)
    update = update_of(rule, network, state, x, y)
    logits = network(x).detach().requires_grad_()
    (error,) = torch.autograd.grad(cross_entropy(logits, labels), logits)
    h = x
    for index, layer in enumerate(network.layers[:-1]):
        z = layer(h.detach())
        seen = avg_pool2d(z.permute(0, 3, 1, 2), 2).flatten(1) if kind == "cnn" else z
        surrogate = (seen * (error @ state.rule[index])).sum()
        assert_gradients(update.gradients[index], torch.autograd.grad(surrogate, [*layer.parameters()]))
        h = z
    assert_gradients(update.gradients[-1], gradient_of_readout(network, labels, x))


def test_the_example_teaches_the_rule_that_the_project_has():
    network, x, _, y = make()
    ours, taught = DirectFeedbackAlignment(0.7), example.DirectFeedbackAlignment(0.7)
    state, of_example = first_state(ours, network, x, y), first_state(taught, network, x, y)
    state = state._replace(rule=(*(matrix.T for matrix in of_example.rule[:2]), ()))
    got, expected = update_of(ours, network, state, x, y), update_of(taught, network, of_example, x, y)
    torch.testing.assert_close(got.gradients, expected.gradients, **EXACT)


@pytest.mark.parametrize(("kind", "grid"), [("mlp", None), ("cnn", None), ("cnn", 1)])
@pytest.mark.parametrize("feedback", ["transpose", "random"])
def test_a_local_classifier_descends_the_cross_entropy_of_its_own_softmax(kind, grid, feedback):
    """Layer and softmax, by automatic differentiation of a graph that is cut between layers."""
    network, x, labels, y = make(kind)
    rule = LocalClassifier(0.9, feedback, grid)
    state = first_state(rule, network, x, y)
    update = update_of(rule, network, state, x, y)
    h = x
    for index, layer in enumerate(network.layers[:-1]):
        classifier = state.rule[index]
        z = layer(h.detach())
        seen = z if kind == "mlp" else z.mean((1, 2)) if grid else avg_pool2d(z.permute(0, 3, 1, 2), 2).flatten(1)
        seen = seen / math.sqrt(seen.shape[1])
        weight, bias = (tensor.clone().requires_grad_() for tensor in classifier[:2])
        logits = seen @ weight.T + bias
        loss = cross_entropy(logits, labels)
        of_weight, of_bias, error = torch.autograd.grad(loss, [weight, bias, logits], retain_graph=True)
        surrogate = loss if feedback == "transpose" else (seen * (error @ classifier.feedback)).sum()
        assert_gradients(update.gradients[index], torch.autograd.grad(surrogate, [*layer.parameters()]))
        after = update.state.rule[index]
        torch.testing.assert_close(after.weight, weight.detach() - 0.9 * of_weight, **EXACT)
        torch.testing.assert_close(after.bias, bias.detach() - 0.9 * of_bias, **EXACT)
        torch.testing.assert_close(after.feedback, classifier.feedback)
        h = z
    assert_gradients(update.gradients[-1], gradient_of_readout(network, labels, x))


@pytest.mark.parametrize("grid", [1, 2, 3, 4, 7])
def test_a_local_classifier_sees_the_blocks_that_a_memory_sees(grid):
    z = torch.randn(3, 8, 16, 5, generator=torch.Generator().manual_seed(0))
    blocks = torch.stack([ClassMeansModulator(grid=grid).averaged(image) for image in z]).reshape(3, -1, 5)
    torch.testing.assert_close(seen_by_readout(z, grid).reshape(3, 5, -1), blocks.mT)


def test_there_are_no_more_blocks_than_places():
    z = torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(seen_by_readout(z, 9), z.permute(0, 3, 1, 2).flatten(1))


def test_a_classifier_that_does_not_learn_stays_as_it_was_drawn():
    network, x, _, y = make()
    rule = LocalClassifier(0)
    state = first_state(rule, network, x, y)
    update = update_of(rule, network, state, x, y)
    torch.testing.assert_close(update.state.rule, state.rule, rtol=0, atol=0)
    assert update.gradients[0]["affine.weight"].any()


# States, streams and ensembles -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("name", STREAMS)
def test_a_block_makes_the_mean_of_one_sample_updates(name, kind):
    network, x, _, y = make(kind)
    rule = RULES[name]
    state = first_state(rule, network, x, y)
    together = update_of(rule, network, state, x, y).gradients
    alone = [
        update_of(rule, network, state._replace(layers=tree_map(lambda u, i=i: u[i : i + 1], state.layers)), *sample)
        for i, sample in enumerate(zip(x[:, None], y[:, None], strict=True))
    ]
    mean_alone = tree_map(lambda *parts: torch.stack(parts).mean(0), *(update.gradients for update in alone))
    torch.testing.assert_close(together, mean_alone, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("name", RULES)
def test_many_models_at_once_are_one_after_the_other(name, kind):
    rule = RULES[name]
    _, x, _, y = make(kind)
    networks = [make(kind, seed)[0] for seed in (1, 2, 3)]
    states = [rule.initial_state(n, x, y, torch.Generator().manual_seed(i)) for i, n in enumerate(networks)]
    parameters = [network.split_parameters() for network in networks]
    stacked = tree_map(lambda *members: torch.stack(members), *zip(parameters, states, strict=True))
    context = rule.prepare(x, y)

    def gradients(p, state):
        update = rule(networks[0], p, state, x, y, context)
        return update.gradients, update.state

    together = torch.vmap(gradients)(*stacked)
    for index, (p, state) in enumerate(zip(parameters, states, strict=True)):
        own = tree_map(lambda stack, index=index: stack[index], together)
        torch.testing.assert_close(own, gradients(p, state), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", STREAMS)
def test_every_member_draws_what_is_random_from_its_own_seed(name):
    rule, (_, x, _, y) = RULES[name], make()

    def draw(seeds):
        ensemble = build_ensemble(lambda generator: NETWORKS["mlp"][0](generator).double(), seeds)
        state = ensemble.draw_state(lambda network, generator: rule.initial_state(network, x, y, generator))
        return [leaf for leaf in tree_leaves(state.rule) if leaf.any()]

    three, last = draw([7, 8, 9]), draw([9])
    assert three
    for of_three, of_last in zip(three, last, strict=True):
        assert not torch.equal(of_three[0], of_three[1])
        assert torch.equal(of_three[2], of_last[0])


def test_feedback_is_as_large_as_it_is_asked_to_be():
    network = mlp((5,), 10, (200, 300), torch.Generator().manual_seed(0))
    x, y = torch.zeros(2, 5), torch.zeros(2, 10)
    feedback = FeedbackAlignment(2.0).initial_state(network, x, y, torch.Generator().manual_seed(1)).rule
    assert abs(feedback[1]["affine.weight"].std() * math.sqrt(200) - 2) < 0.05
    direct = DirectFeedbackAlignment(2.0).initial_state(network, x, y, torch.Generator().manual_seed(1)).rule
    assert abs(direct[0].std() * math.sqrt(10) - 2) < 0.15
    classifier = LocalClassifier(feedback="random").initial_state(network, x, y, torch.Generator().manual_seed(1)).rule
    assert abs(classifier[0].weight.std() - 1) < 0.1
    assert abs(classifier[1].feedback.std() - 1) < 0.1
    assert not torch.equal(classifier[0].weight, classifier[0].feedback)


@pytest.mark.parametrize(
    "make_rule",
    [Backprop, Frozen, SimilarityMatching, lambda num: PHSIC(accumulate=num), lambda num: HSIC(2, (1, 1, 1), num)],
)
def test_averages_are_plain_batches_of_as_many(make_rule):
    assert (make_rule(4).window, make_rule(4).sliding, make_rule(4).streams) == (4, False, False)
    assert make_rule(1).window is None
    with pytest.raises(UserError, match=r"optimizer.accumulate is 0; expected a whole number of at least 1"):
        make_rule(0)


class Bilinear(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.map = torch.nn.Bilinear(4, 4, 3)

    def forward(self, h):
        return self.map(h, h)


def refuse_bilinear():
    network = Network(torch.nn.Linear(5, 4), Bilinear())
    FeedbackAlignment().initial_state(network, torch.zeros(2, 5), torch.zeros(2, 3), torch.Generator())


class Own(torch.nn.Module):
    """A linear map of its own, whose weight is given by place or by name."""

    def __init__(self, call):
        super().__init__()
        self.weight, self.call = torch.nn.Parameter(torch.randn(3, 4, dtype=torch.float64)), call

    def forward(self, h):
        return self.call(h, self.weight)


def test_a_weight_may_be_given_by_place_or_by_name():
    linear, gradients = torch.nn.functional.linear, []
    for call in (lambda h, w: linear(h, w), lambda h, w: linear(h, weight=w), lambda h, w: linear(input=h, weight=w)):
        torch.manual_seed(0)
        network = Network(torch.nn.Linear(5, 4, dtype=torch.float64), Own(call))
        x, y = torch.randn(2, 5, dtype=torch.float64), torch.eye(3, dtype=torch.float64)[:2]
        rule = FeedbackAlignment()
        gradients.append(update_of(rule, network, first_state(rule, network, x, y), x, y).gradients)
    torch.testing.assert_close(gradients[1:], gradients[:1] * 2, rtol=0, atol=0)
    assert gradients[0][0]["weight"].any()


class Positive(torch.nn.Module):
    """A linear map through a function of its weight: to send errors back through another would not be told from it."""

    def __init__(self):
        super().__init__()
        self.map = torch.nn.Linear(4, 3)

    def forward(self, h):
        return torch.nn.functional.linear(h, self.map.weight.abs(), self.map.bias)


def refuse_positive():
    network = Network(torch.nn.Linear(5, 4), Positive())
    FeedbackAlignment().initial_state(network, torch.zeros(2, 5), torch.zeros(2, 3), torch.Generator())


def divide(groups=3, power=0.2, smoothing=1.0):
    divisive_mlp((5,), 3, (12, 6), groups, power, smoothing, torch.Generator())


def refuse_groups(kind, num):
    network, x, _, y = make(kind)
    return lambda: first_state(PHSIC(groups=num), network, x, y)


@pytest.mark.parametrize(
    ("make_rule", "message"),
    [
        (lambda: FeedbackAlignment(0), "rule.scale is 0; expected a number above 0"),
        (lambda: FeedbackAlignment(math.nan), "rule.scale is nan; expected a number above 0"),
        (lambda: DirectFeedbackAlignment(-1), "rule.scale is -1; expected a number above 0"),
        (lambda: DirectFeedbackAlignment(accumulate=0), "optimizer.accumulate is 0; expected a whole number"),
        (lambda: LocalClassifier(-0.1), "rule.learning_rate is -0.1; expected a number of at least 0"),
        (lambda: LocalClassifier(grid=0), "rule.grid is 0; expected a whole number of at least 1, blocks along a side"),
        (lambda: LocalClassifier(feedback="none"), "rule.feedback is 'none'; expected transpose or random"),
        (lambda: PHSIC(groups=2), "rule.groups is 2; expected a whole number of at least 3, or null"),
        (lambda: PHSIC(power=0), "rule.power is 0; expected a number above 0"),
        (lambda: PHSIC(smoothing=-1), "rule.smoothing is -1; expected a number of at least 1e-15"),
        (refuse_groups("mlp", 5), "rule.groups is 5, but layer 0 has 12 neurons or channels; expected a number that"),
        (refuse_groups("mlp", 12), "rule.groups is 12, but layer 0 has 12 neurons or channels; expected a number that"),
        (refuse_groups("cnn", 4), "rule.groups is 4, but layer 0 has 6 neurons or channels; expected a number that"),
        (lambda: divide(groups=5), "model.groups is 5, but a hidden layer has 12 neurons; expected a number that cuts"),
        (lambda: divide(groups=0), "model.groups is 0; expected a whole number of at least 1"),
        (lambda: divide(power=-1), "model.power is -1; expected a number of at least 0"),
        (lambda: divide(smoothing=0), "model.smoothing is 0; expected a number above 0"),
        (refuse_bilinear, "layer 1 has map.weight of a Bilinear, .*; expected torch.nn.Linear or torch.nn.Conv2d"),
        (refuse_positive, "layer 1 has map.weight of a Linear, .*; expected torch.nn.Linear or torch.nn.Conv2d"),
    ],
)
def test_a_rule_that_cannot_work_is_refused_in_one_line(make_rule, message):
    with pytest.raises(UserError, match=message) as refused:
        make_rule()
    assert "\n" not in str(refused.value)
