"""Files as the data sets come in, of a few random images each."""

import hashlib
import pickle
import struct

import numpy as np
from PIL import Image


def random_pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


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
