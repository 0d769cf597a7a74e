"""What the benchmarks of running models share: runs kept as they end, intervals."""

import argparse
import json
from pathlib import Path

import numpy as np
import torch


def arguments(description, name):
    """A parser with the folders of data and results, and the number of pictures."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("out") / name)
    parser.add_argument("--pictures", type=int, default=16)
    return parser


def pictures_of(args):
    """The first files of voc99."""
    return sorted((args.data / "voc99" / "images").glob("*.png"))[: args.pictures]


def kept_run(folder, name, make):
    """What `make` returns, written once and then read."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.json"
    if not file.exists():
        file.write_text(json.dumps(make()))
        print(name, flush=True)
    return json.loads(file.read_text())


def mean_and_width(values):
    """Mean over pictures and half the width of its 95 % interval."""
    values = np.asarray(values)
    return values.mean(0), 1.96 * values.std(0, ddof=1) / len(values) ** 0.5
