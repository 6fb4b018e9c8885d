"""Splits, windows, batches and augmentation against naive loops."""

import pytest
import torch
from conftest import one_line
from torch.nn.functional import pad

from projectlib.data import Augmentation, Dataset, Sampler, Split, gather, prepare
from projectlib.errors import UserError

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def toy_dataset(num=20, shape=(3,), **other):
    """Sample i of the training set is filled with the number i."""
    inputs = torch.arange(float(num)).view(-1, *(1,) * len(shape)).expand(num, *shape).contiguous()
    test = Split(torch.zeros(4, *shape), torch.tensor([0, 1, 0, 1]))
    return Dataset("toy", Split(inputs, torch.arange(num) % 2), test, num_classes=2, **other)


# Data set and prepare


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (Split(torch.zeros(0, 3), torch.zeros(0).long()), "there are none"),
        (Split(torch.zeros(4, 3).double(), torch.zeros(4).long()), "inputs are torch.float64"),
        (Split(torch.zeros(4, 3), torch.zeros(4)), "labels torch.float32"),
        (Split(torch.zeros(4, 3), torch.zeros(5).long()), "labels are of shape"),
        (Split(torch.zeros(4), torch.zeros(4).long()), "one is of shape"),
        (Split(torch.zeros(3, 4).T, torch.zeros(4).long()), "not contiguous"),
        (Split(torch.zeros(4, 3), torch.tensor([0, 1, 2, 1])), "labels go from 0 to 2; expected 0 to 1"),
        (Split(torch.zeros(4, 3), torch.tensor([0, 1, -1, 1])), "labels go from -1 to 1"),
    ],
)
def test_training_samples_are_checked(train, message):
    test = Split(torch.zeros(2, 3), torch.tensor([0, 1]))
    with pytest.raises(UserError, match=f"data 'toy', train samples: .*{message}") as error:
        Dataset("toy", train, test, num_classes=2)
    one_line(error)


@pytest.mark.parametrize("key", ["test", "validation"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_bad_numbers_are_counted_and_placed(key, value):
    splits = {k: Split(torch.zeros(5, 3), torch.zeros(5).long()) for k in ("train", "test", "validation")}
    splits[key].inputs[2:4, 1] = value
    with pytest.raises(UserError, match=f"{key} samples: 2 values in 2 samples .* the first in sample 2;"):
        Dataset("toy", **splits, num_classes=2)


def test_splits_are_of_one_shape():
    with pytest.raises(UserError, match=r"test samples: one is of shape \(4,\); expected that .* \(3,\)"):
        Dataset(
            "toy",
            Split(torch.zeros(2, 3), torch.tensor([0, 1])),
            Split(torch.zeros(2, 4), torch.tensor([0, 1])),
            num_classes=2,
        )


def test_test_samples_are_needed():
    with pytest.raises(UserError, match="test samples: there are none"):
        Dataset(
            "toy",
            Split(torch.zeros(2, 3), torch.tensor([0, 1])),
            Split(torch.zeros(0, 3), torch.zeros(0).long()),
            num_classes=2,
        )


def test_augmentation_needs_images_of_its_channels():
    with pytest.raises(UserError, match="augmentation of 3 channels for samples of shape \\(1, 8, 8\\)"):
        toy_dataset(shape=(1, 8, 8), augmentation=Augmentation(1, True, (0.0, 0.0, 0.0)))
    with pytest.raises(UserError, match="expected images"):
        toy_dataset(shape=(3,), augmentation=Augmentation(1, True, (0.0, 0.0, 0.0)))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
def test_to_moves_every_split(device):
    dataset = prepare(toy_dataset(), validation=0.2).to(device)
    assert set(dataset.splits) == {"train", "validation", "test"}
    assert {tensor.device.type for split in dataset.splits.values() for tensor in split} == {device}


def test_limit_keeps_the_first_samples():
    dataset = toy_dataset()
    limited = prepare(dataset, limit=7)
    assert limited.train.inputs[:, 0].tolist() == list(range(7))
    assert limited.test is dataset.test
    assert prepare(dataset, limit=20).train.labels.tolist() == dataset.train.labels.tolist()
    assert prepare(dataset).train is dataset.train


def test_validation_is_cut_off_what_limit_leaves():
    dataset = toy_dataset()
    state = torch.get_rng_state()
    prepared = prepare(dataset, limit=10, validation=0.3)
    kept, held_out = (split.inputs[:, 0].tolist() for split in (prepared.train, prepared.validation))
    assert sorted(kept + held_out) == list(range(10))
    assert len(held_out) == 3
    for split in (prepared.train, prepared.validation):  # labels go with their inputs
        assert torch.equal(split.labels, split.inputs[:, 0].long() % 2)
    assert prepared.test is dataset.test
    torch.manual_seed(99)
    assert torch.equal(prepare(dataset, limit=10, validation=0.3).validation.inputs, prepared.validation.inputs)
    torch.set_rng_state(state)
    prepare(dataset, validation=0.3)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("limit", [0, -1, 21, 2.0, True, "5"])
def test_bad_limit(limit):
    with pytest.raises(
        UserError, match=r"data.limit is .*; expected a whole number from 1 to the 20 training"
    ) as error:
        prepare(toy_dataset(), limit=limit)
    assert repr(limit) in one_line(error)


@pytest.mark.parametrize("validation", [-0.1, 1, 1.0, 2, float("nan"), "0.1", True, None])
def test_bad_validation(validation):
    with pytest.raises(UserError, match=r"data.validation is .*; expected a fraction from 0 to below 1") as error:
        prepare(toy_dataset(), validation=validation)
    assert repr(validation) in one_line(error)


@pytest.mark.parametrize("validation", [0.01, 0.99])
def test_validation_that_leaves_a_split_empty(validation):
    with pytest.raises(UserError, match="of 20 training samples; expected a fraction that leaves at least one"):
        prepare(toy_dataset(), validation=validation)


def test_validation_of_a_dataset_that_has_one():
    dataset = prepare(toy_dataset(), validation=0.2)
    assert prepare(dataset, limit=5).validation is dataset.validation
    with pytest.raises(UserError, match="toy has validation samples: set it to 0"):
        prepare(dataset, validation=0.2)


# Windows, batches and augmentation


@pytest.mark.parametrize(("n", "size"), [(10, 1), (10, 3), (10, 10), (11, 2)])
def test_sliding_windows(n, size):
    dataset, sampler = toy_dataset(n), Sampler(n, size, sliding=True)
    epoch = sampler.epoch(generator())
    order = epoch.order.tolist()
    assert sorted(order) == list(range(n))
    windows, window = [], []
    for sample in order:  # a working memory: the newest enters last, the oldest leaves
        window = [*window, sample][-size:]
        if len(window) == size:
            windows.append(window)
    assert sampler.steps == len(windows)
    for step, expected in enumerate(windows):
        for at in (step, torch.tensor(step)):
            assert sampler.window_indices(epoch, at).tolist() == expected
            x, y = gather(sampler.source(dataset.train), sampler, epoch, at)
            assert x[:, 0].tolist() == expected
            assert y.tolist() == [sample % 2 for sample in expected]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize(("n", "size"), [(10, 1), (10, 3), (10, 5), (10, 10)])
def test_batches(n, size, drop_last):
    sampler = Sampler(n, size, sliding=False, drop_last=drop_last)
    epoch = sampler.epoch(generator())
    expected = [batch.tolist() for batch in epoch.order.split(size)]
    if drop_last and n % size:
        expected.pop()
    assert sampler.steps == len(expected)
    assert [sampler.window_indices(epoch, step).tolist() for step in range(sampler.steps)] == expected
    assert sampler.uniform == (len(expected[-1]) == size)
    if sampler.uniform:
        tensors = [sampler.window_indices(epoch, torch.tensor(step)) for step in range(sampler.steps)]
        assert torch.stack(tensors).tolist() == expected


def test_tensor_step_needs_windows_of_one_size():
    sampler = Sampler(10, 3, sliding=False)
    with pytest.raises(AssertionError, match="windows of one size"):
        sampler.window_indices(sampler.epoch(generator()), torch.tensor(0))


def test_epochs_differ_and_repeat():
    sampler = Sampler(50, 4, sliding=True, augmentation=Augmentation(1, True, (0.0,)))
    draws = generator(1)
    state = draws.get_state()
    first, second = sampler.epoch(draws), sampler.epoch(draws)
    assert all(not torch.equal(a, b) for a, b in zip(first, second, strict=True))
    again = sampler.epoch(generator().set_state(state))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    plain = Sampler(50, 4, sliding=True).epoch(generator(1))
    assert plain.crops is None
    assert plain.flips is None
    assert torch.equal(plain.order, first.order)


@pytest.mark.parametrize("size", [0, -1, 11, 2.0, True, "2"])
def test_bad_size(size):
    with pytest.raises(UserError, match=r"data.batchsize is .*; expected a whole number from 1 to the 10") as error:
        Sampler(10, size, sliding=True)
    assert repr(size) in one_line(error)


@pytest.mark.parametrize(("n", "sliding"), [(11, True), (11, False), (12, False)])  # 11: a last batch of two
@pytest.mark.parametrize(("padding", "flip"), [(0, True), (1, True), (2, False)])
def test_augmentation_against_pad_slice_flip(padding, flip, n, sliding):
    height, width, size = 5, 7, 3
    augmentation = Augmentation(padding, flip, fill=(-2.0, 3.0))
    sampler = Sampler(n, size, sliding, augmentation=augmentation)
    images = torch.randn(n, 2, height, width, generator=generator())
    train = Split(images, torch.arange(n))
    epoch = sampler.epoch(generator(1))
    source = sampler.source(train)
    for step in range(sampler.steps):
        x, y = gather(source, sampler, epoch, step)
        crops = epoch.crops[step].expand(size, 2).tolist()  # one for all images of a window, one for each of a batch
        assert epoch.crops[step].shape == (1 if sliding else size, 2)
        drawn = zip(crops, epoch.flips[step].tolist(), strict=True)
        for image, label, ((top, left), flipped) in zip(x, y.tolist(), drawn, strict=False):
            channels = [pad(images[label, c], (padding,) * 4, value=augmentation.fill[c]) for c in (0, 1)]
            expected = torch.stack(channels)[:, top : top + height, left : left + width]
            assert torch.equal(image, expected.flip(2) if flipped else expected)
        assert y.tolist() == sampler.window_indices(epoch, step).tolist()
        if sampler.uniform:
            assert all(map(torch.equal, (x, y), gather(source, sampler, epoch, torch.tensor(step))))


def test_augmentation_draws_every_offset_and_flip_evenly():
    crops, flips = Augmentation(1, True, (0.0,)).draw(steps=4500, size=4, num_crops=2, generator=generator())
    counts = (3 * crops[..., 0] + crops[..., 1]).flatten().bincount(minlength=9)
    assert counts.sub(1000).abs().max() < 150  # 5 standard deviations
    assert flips.float().mean().sub(0.5).abs() < 0.02
    assert not Augmentation(1, False, (0.0,)).draw(50, 4, 1, generator())[1].any()


def test_without_augmentation_nothing_is_copied():
    train = toy_dataset().train
    assert Sampler(20, 2, sliding=True).source(train) is train


@needs_gpu
def test_gather_in_a_cuda_graph():
    augmentation = Augmentation(1, True, fill=(-2.0, 3.0))
    sampler = Sampler(11, 3, sliding=True, augmentation=augmentation)
    train = Split(torch.randn(11, 2, 5, 7), torch.arange(11)).to("cuda")
    source, epoch = sampler.source(train), sampler.epoch(generator()).to("cuda")
    step = torch.zeros((), dtype=torch.int64, device="cuda")
    gather(source, sampler, epoch, step)  # warm-up
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = gather(source, sampler, epoch, step)
    for at in range(sampler.steps):
        step.fill_(at)
        graph.replay()
        assert all(map(torch.equal, captured, gather(source, sampler, epoch, at)))
