"""A picture of samples: one row a cell, the same noise in every column.

    python benchmarks/guidance/picture_grid.py --runs runs --cells none sag-s1 \
        --out grid.png
"""

import argparse
from pathlib import Path

import numpy as np
from outputs import save_picture
from PIL import Image

COLUMNS = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--cells", nargs="+", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--enlarge", type=int, default=2)
    args = parser.parse_args()
    rows, settings = [], {}
    for cell in args.cells:
        chunk = np.load(args.runs / cell / f"seed{args.seed}" / "000.npz")
        settings[cell] = str(chunk["settings"])
        rows.append(np.concatenate(list(chunk["pixels"][:COLUMNS]), axis=1))
    size = args.enlarge
    pixels = 255 - np.concatenate(rows).repeat(size, 0).repeat(size, 1)
    save_picture(Image.fromarray(pixels), args.out, {"rows": settings})


if __name__ == "__main__":
    main()
