"""A class name finds its object in ImageNet-Segmentation, by walks from the word.

Runs where the weights are; nothing is fetched. One command for each model:

    python benchmarks/words/imagenet_segmentation.py --model FLUX.1-schnell \
        --data gtsegs_ijcv.mat --names words.txt --out runs/flux \
        --device cuda --dtype bfloat16

Each picture is shown to the model once, noised, beside the prompt "a NAME". From the
one pass come all cells: row select and column select (one bounce) and further bounces
in both directions, heads weighted uniformly and by their second eigenvalue. What is
finished is kept in OUT; the same command goes on where it was killed. With
`--engine ray --workers 8` eight GPUs share the pictures.

NAMES says what a WordNet number is called, one a line ("n02084071 dog, domestic dog"):
WordNet's own words.txt, or LOC_synset_mapping.txt of ImageNet. The first name is used.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

import attnchain
from attnchain.errors import DataSetError, OutputError
from attnchain.evaluate import Table, metrics, open_data_set
from attnchain.evaluate.report import interval
from attnchain.files import write_whole
from attnchain.folder import ray_cluster
from attnchain.maps import unit_range
from attnchain.optional import require
from attnchain.text import TextAttention, show_picture, text_attention

FEATURE = "this benchmark"
SQUARE, SCORED = (512, 512), (224, 224)
WEIGHTS = ("uniform", "lambda2")
DIRECTIONS = {"incoming": "row select", "outgoing": "column select"}
BASELINE = "column select, n = 1, uniform"
PROTOCOL = (
    "ConceptAttention's scoring: picture squared to 512, the word's map scaled to "
    "[0, 1] and resized to 224 x 224 (nearest), mask where above its mean; Acc and "
    "both mIoU over the pixels of all pictures, mAP of the stacked (1 - score, score) "
    "maps"
)


def read_names(file: Path) -> dict[str, str]:
    """The first name of every WordNet number in a text file."""
    names = {}
    for line in file.read_text("utf-8").splitlines():
        number, _, called = line.strip().partition("\t" if "\t" in line else " ")
        if called:
            names[number] = called.split(",")[0].strip().replace("_", " ")
    return names


def read_words(data: Path, names: dict[str, str]) -> dict[str, str]:
    """What each picture of the MATLAB file shows, by the picture's name.

    Raises:
        DataSetError: The file has no `value/id`, or a number has no name.
    """
    path = data / "gtsegs_ijcv.mat" if data.is_dir() else data
    h5py = require("h5py", extra="evaluate", feature=FEATURE)
    with h5py.File(path, "r") as file:
        if "value/id" not in file:
            raise DataSetError(f"{path} does not say what its pictures show (value/id)")
        codes = [np.asarray(file[r]).flatten() for r in file["value/id"][:, 0]]
    numbers = ["".join(map(chr, code)).split("_")[0].strip() for code in codes]
    if missing := sorted(set(numbers) - names.keys()):
        raise DataSetError(
            f"{len(missing)} of {len(set(numbers))} WordNet numbers have no name, such "
            f"as {missing[0]!r}: give a fuller list with --names"
        )
    return {f"{i:04d}": names[number] for i, number in enumerate(numbers)}


def last_ten(pipeline: Any) -> range | None:
    """FLUX's last ten two-stream blocks; all blocks of other models."""
    if type(pipeline).__name__ != "FluxPipeline":
        return None
    count = pipeline.transformer.config.num_layers
    return range(max(0, count - 10), count)


def word_maps(
    read: dict[str, TextAttention], word: str, most: int
) -> dict[str, Tensor]:
    """Where walkers from the word are, by cell: weights, direction and bounces."""
    maps = {}
    for weights, direction, n in product(read, DIRECTIONS, range(1, most + 1)):
        attention = read[weights]
        walk = attention.walk(word, n, direction=direction)
        cell = f"{DIRECTIONS[direction]}, n = {n}, {weights}"
        maps[cell] = attention.grid.to_map(walk).float().cpu()
    return maps


def scores(values: Tensor, truth: Tensor) -> list[float]:
    """Pixels by true and found class (0 0, 0 1, 1 0, 1 1), and average precision."""
    score = functional.interpolate(unit_range(values)[None, None], SCORED)[0, 0]
    labels = functional.interpolate(truth[None, None].float(), SCORED)[0, 0].long()
    found = (score > score.mean()).long()
    matrix = metrics.confusion(found, labels, count=2)
    precision = metrics.stacked_average_precision(score, labels)
    return [*map(int, matrix.flatten()), precision]


def load_pipeline(args: argparse.Namespace) -> Any:
    """The model from its local folder."""
    diffusers = require("diffusers", extra="diffusers", feature=FEATURE)
    loaded = diffusers.DiffusionPipeline.from_pretrained(
        args.model, torch_dtype=getattr(torch, args.dtype), local_files_only=True
    )
    loaded.set_progress_bar_config(disable=True)
    return loaded.to(args.device)


class Worker:
    """Holds one pipeline, and answers pictures by their names."""

    def __init__(self, args: argparse.Namespace, words: dict[str, str]) -> None:
        self.args, self.words = args, words
        self.data = open_data_set("imagenet-segmentation", args.data)
        self.pipeline = load_pipeline(args)

    def answer(self, name: str) -> tuple[str, dict[str, list[float]]]:
        """The scores of all cells on one picture."""
        args, word = self.args, self.words[name]
        picture = self.data.picture(name).resize(SQUARE, Image.Resampling.BICUBIC)
        layers = last_ten(self.pipeline) if args.layers is None else args.layers
        shown = {"noise": args.noise, "size": args.size, "layers": layers}
        prompt = f"a {word}"
        captured = show_picture(self.pipeline, picture, prompt, seed=args.seed, **shown)
        asked = {"pipeline": self.pipeline, "prompt": prompt}
        read = {w: text_attention(captured, weights=w, **asked) for w in args.weights}
        truth = self.data.truth(name)[0]
        maps = word_maps(read, word, args.bounces)
        return name, {cell: scores(values, truth) for cell, values in maps.items()}


def answers(
    args: argparse.Namespace, words: dict[str, str], names: Sequence[str]
) -> Iterator[tuple[str, dict[str, list[float]]]]:
    """The scores of pictures, in the order they get ready."""
    if not names:
        return
    if args.engine == "local":
        yield from map(Worker(args, words).answer, names)
        return
    util = require("ray.util", extra="ray", feature="--engine ray")
    with ray_cluster(args.address) as ray:
        gpus = 0 if args.device == "cpu" else 1
        actor = ray.remote(num_gpus=gpus, max_restarts=-1, max_task_retries=1)(Worker)
        workers = [actor.remote(args, words) for _ in range(args.workers)]
        pool = util.ActorPool(workers)
        yield from pool.map_unordered(lambda w, name: w.answer.remote(name), names)


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """What changes the scores of a picture, besides picture and word."""
    names = ("model", "noise", "size", "layers", "seed", "dtype", "bounces", "weights")
    diffusers = require("diffusers", extra="diffusers", feature=FEATURE)
    versions = {"attnchain": attnchain.__version__, "diffusers": diffusers.__version__}
    return {name: getattr(args, name) for name in names} | versions


def kept(file: Path, key: str) -> dict[str, list[float]] | None:
    """The scores of an earlier run with the same settings.

    Raises:
        OutputError: The file is of other settings, or damaged.
    """
    if not file.exists():
        return None
    try:
        record = json.loads(file.read_text("utf-8"))
        found, cells = record["key"], record["cells"]
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{file} is damaged: remove it and run again") from error
    if found != key:
        raise OutputError(
            f"{file} was made with other settings, pictures or words: choose another "
            f"--out, or remove it"
        )
    return cells


def run(args: argparse.Namespace) -> tuple[Table, dict[str, Any]]:
    """Scores the pictures that OUT still lacks, and sums all of them up."""
    data = open_data_set("imagenet-segmentation", args.data)
    words = read_words(args.data, read_names(args.names))
    chosen = data.names[: args.count]
    folder = args.out / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    settings = settings_of(args)
    keys = {
        name: sha256(
            json.dumps([settings, data.digest(name), words[name]]).encode()
        ).hexdigest()
        for name in chosen
    }
    done = {name: kept(folder / f"{name}.json", keys[name]) for name in chosen}
    missing = [name for name in chosen if done[name] is None]
    for count, (name, cells) in enumerate(answers(args, words, missing), start=1):
        record = {"key": keys[name], "word": words[name], "cells": cells}
        write_whole(folder / f"{name}.json", json.dumps(record).encode())
        done[name] = cells
        print(f"{count} of {len(missing)}: {name}, {words[name]}", flush=True)
    table, sums = summed_up(list(done.values()))
    sums = {"settings": settings, "pictures": len(chosen), "cells": sums}
    write_whole(args.out / "scores.json", json.dumps(sums, indent=1).encode())
    return table, sums


def summed_up(records: list[Any]) -> tuple[Table, dict[str, Any]]:
    """The table over all pictures, and the same as plain values."""
    sums, rows = {}, []
    for cell in records[0]:
        counts = torch.tensor([record[cell][:4] for record in records])
        right = counts[:, [0, 3]].sum(1) / counts.sum(1)
        matrix = counts.sum(0).view(2, 2)
        base = BASELINE if BASELINE in records[0] else next(iter(records[0]))
        other = torch.tensor([record[base][:4] for record in records])
        ahead = right - other[:, [0, 3]].sum(1) / other.sum(1)
        low, high = interval(ahead.tolist())
        sums[cell] = {
            "Acc": metrics.accuracy(matrix),
            "class-mean mIoU": metrics.class_mean_miou(matrix),
            "pooled mIoU": metrics.pooled_miou(matrix),
            "mAP": sum(record[cell][4] for record in records) / len(records),
            "Acc ahead": [float(ahead.mean()), low, high],
        }
        *numbers, (mean, *ends) = sums[cell].values()
        paired = f"{mean:+.4f} [{ends[0]:+.4f}, {ends[1]:+.4f}]"
        rows.append((cell, *(f"{100 * value:.2f}" for value in numbers), paired))
    headings = ("walk from the word", *list(next(iter(sums.values())))[:4])
    headings += (f"Acc ahead of {base}, 95 %",)
    title = f"ImageNet-Segmentation, {len(records)} pictures"
    return Table(title, f"{PROTOCOL}.", headings, tuple(rows), ()), sums


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a local folder of weights")
    parser.add_argument("--data", type=Path, required=True, help="gtsegs_ijcv.mat")
    parser.add_argument("--names", type=Path, required=True, help="WordNet's words.txt")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, help="the first so many pictures only")
    parser.add_argument("--noise", type=float, default=0.5)
    parser.add_argument("--size", type=int, help="side in pixels the model sees")
    parser.add_argument("--layers", type=int, nargs="+", help="default: see last_ten")
    parser.add_argument("--bounces", type=int, default=5, help="the most of a walk")
    parser.add_argument("--weights", nargs="+", default=WEIGHTS, choices=WEIGHTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    kinds = ["float32", "float16", "bfloat16"]
    parser.add_argument("--dtype", default="float32", choices=kinds)
    parser.add_argument("--engine", default="local", choices=["local", "ray"])
    parser.add_argument("--workers", type=int, default=1, help="of Ray; one GPU each")
    parser.add_argument("--address", help="of a running Ray cluster")
    args = parser.parse_args(given)
    if args.engine == "local" and (args.workers > 1 or args.address):
        parser.error("--workers and --address go with --engine ray")
    for name in ("count", "bounces", "workers"):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f"--{name} must be at least 1, but is {value}")
    return args


def main() -> None:
    table, _ = run(arguments())
    print(table.markdown())


if __name__ == "__main__":
    main()
