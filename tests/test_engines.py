"""Every engine does eager's steps: the same weights, moments, states and metrics."""

import pytest
import torch
from made_up_engines import (
    EXACT,
    FLOAT32,
    MODELS,
    OPTIMIZERS,
    RULES,
    assert_same,
    make_engine,
    make_image_engine,
    train,
)

from projectlib.engines.cpu.cnn import ConvolutionEngine
from projectlib.engines.cpu.mlp import CpuEngine
from projectlib.engines.eager import EagerEngine, copy_tree_


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("rule", RULES)
def test_cpu_kernels_equal_eager(model, rule):
    steps = make_engine(EagerEngine, model, rule).sampler.steps
    compiled = train(make_engine(CpuEngine, model, rule), (0, steps))
    assert_same(compiled, train(make_engine(EagerEngine, model, rule), (0, steps)), **FLOAT32)


@pytest.mark.parametrize("rule", ["published", "exact"])
@pytest.mark.parametrize("options", [{}, {"features": (5,), "num_models": 1, "augmented": False}])
def test_convolution_engine_equals_eager(rule, options):
    compiled = train(make_image_engine(ConvolutionEngine, rule, **options), (0, 26))
    assert_same(compiled, train(make_image_engine(EagerEngine, rule, **options), (0, 26)), **FLOAT32)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_fused_optimizers_read_the_gradients_of_convolutions_right(optimizer):
    """torch's fused kernels read a gradient's memory in the parameter's order, whatever its strides are."""
    fused = make_image_engine(EagerEngine, optimizer=optimizer)
    plain = make_image_engine(EagerEngine, optimizer=optimizer)
    for group in plain.optimizer.param_groups:
        group["fused"] = False
    assert_same(train(fused, (0, 5)), train(plain, (0, 5)), **FLOAT32)


def test_convolution_engine_shows_what_diverges():
    engine = make_image_engine(ConvolutionEngine)
    engine.ensemble.parameters[0]["conv.weight"][1, 0] = torch.nan
    train(engine, (0, 2))
    assert engine.metrics()["loss"].isfinite().tolist() == [True, False]
    assert engine.first_bad_layer(1) == "layer 0"


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_cpu_optimizers_equal_torch(optimizer):
    compiled = train(make_engine(CpuEngine, optimizer=optimizer), (0, 26))
    assert_same(compiled, train(make_engine(EagerEngine, optimizer=optimizer), (0, 26)), **FLOAT32)


@pytest.mark.parametrize(
    "make",
    [
        *(lambda e=e, m=m: make_engine(e, m) for e in (EagerEngine, CpuEngine) for m in ("mlp", "lif")),
        *(lambda e=e: make_image_engine(e) for e in (EagerEngine, ConvolutionEngine)),
    ],
    ids=["eager-mlp", "eager-lif", "compiled-mlp", "compiled-lif", "eager-cnn", "compiled-cnn"],
)
def test_results_do_not_depend_on_how_steps_are_cut(make):
    whole = train(make(), (0, 26))
    cut = train(make(), (0, 1), (1, 9), (9, 25), (25, 26))
    assert_same(cut, whole, **EXACT)


def test_cpu_engine_goes_on_from_eager_and_back():
    """Weights, moments, counts and states are the same memory in the same form."""
    first, second = make_engine(EagerEngine, "lif"), make_engine(CpuEngine, "lif")
    train(first, (0, 9))
    second.load_state_dict(first.state_dict())
    epoch = second.draw_epoch(torch.Generator().manual_seed(1))
    second.compile()
    second.run(epoch, 9, 26)
    whole = train(make_engine(EagerEngine, "lif"), (0, 26))
    assert_same((second.state_dict(), second.metrics()), whole, **FLOAT32)


def test_members_do_not_depend_on_each_other():
    three = train(make_engine(CpuEngine, num_models=3), (0, 26))[0]["parameters"]
    one = train(make_engine(CpuEngine, num_models=1), (0, 26))[0]["parameters"]
    torch.testing.assert_close([{n: p[:1] for n, p in layer.items()} for layer in three], one, **EXACT)


def test_a_run_that_diverges_shows_as_not_finite():
    engine = make_engine(CpuEngine, optimizer="sgd")
    for group in engine.optimizer.param_groups:
        group["lr"] = 1e30
    train(engine, (0, 26))
    assert not engine.metrics()["loss"].isfinite().all()
    assert engine.first_bad_layer(0) is not None


def test_a_state_may_be_what_was_elsewhere_in_it():
    """As a delay line's is: its new last is its old first."""
    old = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]), torch.arange(4.0).view(2, 2), torch.tensor([5.0, 6.0])]
    new = [torch.tensor([7.0, 8.0]), old[0], old[2].T, old[3]]
    expected = [tensor.clone() for tensor in new]
    copy_tree_(old, new)
    torch.testing.assert_close(old, expected, rtol=0, atol=0)


def test_an_empty_range_changes_nothing():
    """Also behind the last, smaller batch of an epoch."""
    engine = make_engine(CpuEngine, rule="backprop")
    steps = engine.sampler.steps
    state, metrics = train(engine, (0, steps), (steps, steps))
    expected = train(make_engine(CpuEngine, rule="backprop"), (0, steps))
    assert_same((state, metrics), expected, **EXACT)
