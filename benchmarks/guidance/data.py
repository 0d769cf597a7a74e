"""Fashion-MNIST from its four IDX files, as tensors in [-1, 1]."""

import gzip
from pathlib import Path

import numpy as np
import torch

CLASSES = 10
DEFAULT_FOLDER = Path("../shared/data/fashion-mnist/data")


def read_idx(folder: Path, name: str) -> np.ndarray:
    """Numbers of an IDX file, gzipped or not."""
    packed = folder / f"{name}.gz"
    raw = gzip.decompress(packed.read_bytes()) if packed.exists() else None
    raw = raw if raw is not None else (folder / name).read_bytes()
    dimensions = raw[3]
    header = 4 + 4 * dimensions
    shape = np.frombuffer(raw[4:header], dtype=">u4").astype(int)
    return np.frombuffer(raw, dtype=np.uint8, offset=header).reshape(shape)


def load(folder: Path, part: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (n, 1, 28, 28) in [-1, 1] and labels (n,) of part train or t10k."""
    pixels = torch.from_numpy(read_idx(folder, f"{part}-images-idx3-ubyte").copy())
    labels = torch.from_numpy(read_idx(folder, f"{part}-labels-idx1-ubyte").copy())
    return pixels[:, None].float().div(127.5).sub(1), labels.long()
