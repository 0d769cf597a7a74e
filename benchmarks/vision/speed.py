"""Time of one answer from a warm model, against the model's plain forward pass.

`python benchmarks/vision/speed.py PICTURES [--pictures 5] [--rounds 3]`: CPU time on
one thread, so that a busy machine may measure; both are taken in turn on every picture
of a folder, at the size of the answer (518 px, the main object by itself at 700). A
ratio is that of the best times of a picture; mean and range over pictures. Goal: 1.3.
"""

import argparse
import cProfile
import pstats
import time
from pathlib import Path

import torch

from attnchain.models import PICTURE_ENDINGS, load, read_picture
from attnchain.vision import segment


def asked(picture, name):
    """Arguments of `segment`, and the size of the forward pass beside it."""
    middle = (picture.width / 2, picture.height / 2)
    return {
        "sets": ({"size": 518}, 518),
        "object": ({"foreground": True}, 700),
        "object, 518": ({"foreground": True, "size": 518}, 518),
        "point": ({"point": middle, "size": 518}, 518),
    }[name]


NAMES = ("sets", "object", "object, 518", "point")


def seconds(work):
    start = time.process_time()
    work()
    return time.process_time() - start


@torch.no_grad()
def ratio(model, picture, name, rounds):
    """Best time of the forward pass, and of the answer."""
    options, size = asked(picture, name)
    pixels = model.pixels(picture, size=size)
    plain, whole = [], []
    for _ in range(rounds):
        plain.append(seconds(lambda: model.model(pixels)))
        whole.append(seconds(lambda: segment(picture, model=model, **options)))
    return min(plain), min(whole)


def profiled(model, picture, name):
    """Prints where the seconds of one answer go."""
    profile = cProfile.Profile()
    options, _ = asked(picture, name)
    profile.runcall(segment, picture, model=model, **options)
    pstats.Stats(profile).sort_stats("cumulative").print_stats(45)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--names", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--profile", action="store_true", help="of the first picture")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = load()
    files = sorted(f for f in args.folder.iterdir() if f.suffix in PICTURE_ENDINGS)
    step = max(1, len(files) // args.pictures)
    pictures = [read_picture(file) for file in files[::step][: args.pictures]]
    segment(pictures[0], model=model)
    for name in args.names:
        if args.profile:
            profiled(model, pictures[0], name)
            continue
        times = [ratio(model, picture, name, args.rounds) for picture in pictures]
        ratios = [whole / plain for plain, whole in times]
        mean = sum(ratios) / len(ratios)
        plain = sum(t for t, _ in times) / len(times)
        span = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"{name:12s} forward {plain:.2f} s, {mean:.2f} times that ({span})")


if __name__ == "__main__":
    main()
