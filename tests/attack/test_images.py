"""Image folders of a stranger: what is no image, or more than fits, is named in one line, and nothing waits."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from projectlib import data
from projectlib.errors import UserError

SHAPE = (1, 8, 8)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, pixels=b""):
    """A PNG that says it is so large, whatever it holds."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(sprung) (w) file closefile\n%%EOF\n"


def as_link(target):
    return lambda path: path.symlink_to(target)


def sparse(path):
    with open(path, "wb") as file:
        file.truncate(2**40)


HOSTILE = {
    "900 megapixels": (lambda path: path.write_bytes(png(30_000, 30_000)), "900000000 pixels"),
    "100 megapixels": (lambda path: path.write_bytes(png(10_000, 10_000)), "100000000 pixels"),
    "torn": (lambda path: path.write_bytes(png(8, 8, bytes(10))), "cannot read"),
    "nothing": (lambda path: path.touch(), "cannot read"),
    "PostScript": (lambda path: path.write_bytes(POSTSCRIPT), "cannot read"),
    "a pipe": (os.mkfifo, "is no file"),
    "a device": (as_link("/dev/zero"), "is no file"),
    "a link to nothing": (as_link("nowhere"), "is no file"),
    "a terabyte": (sparse, "has 1,099,511,627,776 bytes"),
}


@pytest.fixture
def images(tmp_path):
    """A folder of eight good images in two classes, for training and testing each."""
    root = tmp_path / "images"
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for index in range(2):
                Image.fromarray(np.full((8, 8), 50 * index, np.uint8)).save(root / part / name / f"{index}.png")
    return root


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_image_is_named(images, name):
    spoil, message = HOSTILE[name]
    path = images / "train" / "dog" / "2.png"
    spoil(path)
    with pytest.raises(UserError, match=message) as error:
        data.folder(str(images), SHAPE, 0.5, 0.5)
    assert str(path) in str(error.value)


def test_the_same_in_a_run_is_one_line(script, images, tmp_path):
    os.mkfifo(images / "test" / "cat" / "2.png")
    words = ["data=folder", f"data.root={images}", "data.shape=[1,8,8]", "data.batchsize=2", "nmodels=1"]
    ended = script("train-biohsic", *words, f"hydra.run.dir={tmp_path / 'run'}")
    assert ended.code == 1
    assert "cat/2.png is no file" in ended.error


def test_a_folder_that_is_named_as_an_image_is_a_folder(images):
    (images / "train" / "dog" / "2.png").mkdir()
    assert len(data.folder(str(images), SHAPE, 0.5, 0.5).train.labels) == 4


@pytest.mark.parametrize("target", ["train", "train/dog", "train/cat"])
def test_links_that_never_end(images, target):
    for name in ("a", "b"):
        (images / "train" / "dog" / name).symlink_to(images / target)
    with pytest.raises(UserError, match="expected every folder once"):
        data.folder(str(images), SHAPE, 0.5, 0.5)


def test_images_that_do_not_fit_are_not_begun(images):
    with pytest.raises(UserError, match=r"data\.shape is .* need 20,000,000\.0 GB"):
        data.folder(str(images), (1, 10**9, 10**6), 0.5, 0.5)


def test_what_else_is_in_a_folder_of_data_sets_does_not_matter(tmp_path):
    sparse(tmp_path / "another-data-set.tar.gz")
    with data.downloads(allowed=False), pytest.raises(UserError, match="could be neither read"):
        data.cifar10(str(tmp_path))


@pytest.mark.parametrize(
    ("loader", "name"),
    [
        (data.mnist, "MNIST/raw/train-images-idx3-ubyte"),
        (data.mnist, "MNIST/raw/train-images-idx3-ubyte.gz"),
        (data.fashion_mnist, "FashionMNIST/raw/t10k-labels-idx1-ubyte"),
        (data.cifar10, "cifar-10-batches-py/data_batch_1"),
        (data.cifar10, "cifar-10-python.tar.gz"),
    ],
)
@pytest.mark.parametrize("make", [os.mkfifo, as_link("/dev/zero"), sparse], ids=["pipe", "device", "terabyte"])
def test_files_of_a_known_data_set(tmp_path, loader, name, make):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    make(path)
    with pytest.raises(UserError, match=path.name):
        loader(str(tmp_path))
