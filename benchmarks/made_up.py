"""Data that look like the real ones to a clock: speed does not depend on what the pixels are."""

import struct
from pathlib import Path

import numpy as np

NUM_CLASSES = 10


def write_mnist(root: Path) -> Path:
    """IDX files of random pixels, as many as MNIST has, in <root>/MNIST/raw; returns root."""
    generator, folder = np.random.default_rng(0), root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part, num in (("train", 60_000), ("t10k", 10_000)):
        images = generator.integers(256, size=num * 784, dtype=np.uint8)
        labels = generator.integers(NUM_CLASSES, size=num, dtype=np.uint8)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, num, 28, 28) + images.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, num) + labels.tobytes())
    return root


def write_images(root: Path, num_train: int) -> Path:
    """Random 32 x 32 colour images, num_train in <root>/train/<class>/ and a few in test/; returns root."""
    from PIL import Image

    generator = np.random.default_rng(0)
    for part, num in (("train", num_train), ("test", NUM_CLASSES)):
        for index in range(num):
            folder = root / part / str(index % NUM_CLASSES)
            folder.mkdir(parents=True, exist_ok=True)
            pixels = generator.integers(256, size=(32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}.png")
    return root
