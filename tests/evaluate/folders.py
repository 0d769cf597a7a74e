"""Miniature data sets in the layouts of the real ones."""

import numpy as np
from PIL import Image

SIZE = (48, 32)


def picture(seed=0):
    """Coloured noise, 48 x 32 pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*SIZE[::-1], 3))
    return Image.fromarray(pixels.astype(np.uint8))


def block(inside=255, outside=0):
    """A block of one value on another."""
    values = np.full(SIZE[::-1], outside, np.uint8)
    values[8:24, 16:40] = inside
    return values


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    image.save(path)


def pairs(root, pictures, labels, *, values=None, endings=(".png", ".png"), count=4):
    """Pictures and labels in two folders: a, b, c, ..."""
    for seed in range(count):
        stem = chr(ord("a") + seed)
        save(root / pictures / f"{stem}{endings[0]}", picture(seed))
        save(
            root / labels / f"{stem}{endings[1]}", block() if values is None else values
        )
    return root


def trimap():
    """Object 255, one unknown column 128."""
    values = block()
    values[:, 40] = 128
    return values


def objects(root, count=4):
    """The layout of grabcut in the open data."""
    return pairs(root, "images", "masks", values=trimap(), count=count)


def class_labels():
    """Classes 0, 3 and 7, some void."""
    values = block(3, 0)
    values[:4] = 7
    values[:, 44:] = 255
    return values


def classes(root, count=4):
    """The layout of voc99 in the open data."""
    return pairs(root, "images", "masks", values=class_labels(), count=count)


def regions(root, count=2):
    """The layout of bsds500: two people, one of whom draws a region more."""
    from scipy.io import savemat

    first = 1 + (block() > 0).astype(np.uint16)
    second = first.copy()
    second[:4] = 3
    people = np.empty((1, 2), dtype=object)
    for i, drawn in enumerate((first, second)):
        people[0, i] = {"Segmentation": drawn}
    for seed in range(count):
        save(root / "images" / f"{seed}.jpg", picture(seed))
        (root / "masks").mkdir(exist_ok=True)
        savemat(root / "masks" / f"{seed}.mat", {"groundTruth": people})
    return root


def imagenet(path, count=2):
    """The file gtsegs_ijcv.mat: references to arrays with their axes reversed."""
    import h5py

    with h5py.File(path, "w") as file:
        reference = h5py.special_dtype(ref=h5py.Reference)
        images = file.create_dataset("value/img", (count, 1), dtype=reference)
        masks = file.create_dataset("value/gt", (count, 1), dtype=reference)
        for i in range(count):
            pixels = np.asarray(picture(i)).transpose(2, 1, 0)
            images[i, 0] = file.create_dataset(f"pixels/{i}", data=pixels).ref
            inner = file.create_dataset(f"inner/{i}", (1, 1), dtype=reference)
            mask = file.create_dataset(f"mask/{i}", data=block(1).T)
            inner[0, 0] = mask.ref
            masks[i, 0] = inner.ref
    return path
