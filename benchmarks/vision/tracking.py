"""Objects followed through DAVIS against each frame alone: J, and one label kept.

    python benchmarks/vision/tracking.py DAVIS results.jsonl [--sequences 10]

DAVIS is a folder with `images/NAME_00000.jpg` and `masks/NAME_00000.png`. The first
frame of a sequence is given and not scored. A sequence that stands in the results is
not computed again. `--say` only prints what they hold.

* mask, click: followed from the first frame's mask, or from one click in its middle
* alone: the main object of each frame; alone_click: the same click in each frame
* still: the first frame's mask, unmoved
* kept: share of frames where the label that holds most of the object is the one that
  held most of it in the first frame; `kept_sets` for metastable sets that are
  followed, `kept_alone` for the sets of each frame by itself
"""

import argparse
import json
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import distance_transform_edt
from scipy.stats import bootstrap

from attnchain.models import load, read_picture
from attnchain.vision import Prompt, begin_track, segment, segment_video

SCORES = ("mask", "click", "alone", "alone_click", "still")


def truth(file):
    return torch.from_numpy(np.array(Image.open(file).convert("L")) > 127)


def iou(found, wanted):
    either = int((found | wanted).sum())
    return float((found & wanted).sum()) / either if either else 1.0


def middle(mask):
    """The pixel (x, y) farthest from the border."""
    depth = distance_transform_edt(np.pad(mask.numpy(), 1))[1:-1, 1:-1]
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    return float(x), float(y)


def holder(labels, mask):
    """The label with most of the object's pixels."""
    return int(labels[mask].bincount().argmax()) if mask.any() else -1


def trusted(found):
    """How surely the object's patches belong to it, on average."""
    share = found.memberships[:, 1]
    return float(share[share > 0.5].mean()) if (share > 0.5).any() else 0.0


def followed(frames, masks, model):
    """Scores of every frame but the first, by method."""
    click = Prompt(points=(middle(masks[0]),))
    rows = [{"still": iou(masks[0], mask)} for mask in masks]
    tracks = {
        "mask": begin_track(frames[0], model, labels=masks[0].long()),
        "click": begin_track(frames[0], model, prompt=click),
    }
    for row, frame, mask in zip(rows[1:], frames[1:], masks[1:], strict=True):
        tracks = {name: track.follow(frame) for name, track in tracks.items()}
        for name, track in tracks.items():
            found = track.current
            row[name] = iou(found.labels == 1, mask)
            row[f"{name}_trust"] = trusted(found)
        main = segment(frame, model=model, foreground=True)
        row["alone"] = iou(main.mask("object"), mask)
        same = segment(frame, model=model, prompt=click)
        row["alone_click"] = iou(same.mask("object"), mask)
    return rows[1:]


def kept(frames, masks, model):
    """How often the object keeps the label of its first frame, by method."""
    tracked = [found.labels for found in segment_video(frames, model=model, sets=4)]
    alone = [segment(frame, model=model, sets=4).labels for frame in frames]
    found = {}
    for name, labels in (("kept_sets", tracked), ("kept_alone", alone)):
        held = [holder(each, mask) for each, mask in zip(labels, masks, strict=True)]
        found[name] = float(np.mean([label == held[0] for label in held[1:]]))
    return found


def sequences(folder, most):
    stems = sorted(file.stem for file in (folder / "images").glob("*.jpg"))
    grouped = groupby(stems, lambda stem: stem.rsplit("_", 1)[0])
    return [(name, list(group)) for name, group in grouped][:most]


def measure(folder, results, most):
    model = load()
    done = {json.loads(line)["sequence"] for line in read_lines(results)}
    for name, stems in sequences(folder, most):
        if name in done:
            continue
        frames = [read_picture(folder / "images" / f"{s}.jpg") for s in stems]
        masks = [truth(folder / "masks" / f"{s}.png") for s in stems]
        record = {"sequence": name, "frames": followed(frames, masks, model)}
        record |= kept(frames, masks, model)
        with results.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")
        print(name, {s: round(mean(record, s), 3) for s in SCORES}, flush=True)


def read_lines(results):
    return results.read_text("utf-8").splitlines() if results.exists() else []


def mean(record, score):
    return float(np.mean([frame[score] for frame in record["frames"]]))


def interval(values):
    if np.ptp(values) == 0:
        return f"{np.mean(values):.3f}"
    found = bootstrap((values,), np.mean, method="percentile", rng=0)
    low, high = found.confidence_interval
    return f"{np.mean(values):.3f} [{low:.3f}, {high:.3f}]"


def say(results):
    """Means over sequences with 95 % intervals over sequences, and differences."""
    records = [json.loads(line) for line in read_lines(results)]
    scores = {s: np.array([mean(r, s) for r in records]) for s in SCORES}
    for name in ("kept_sets", "kept_alone"):
        scores[name] = np.array([record[name] for record in records])
    print(f"{len(records)} sequences")
    for name, values in scores.items():
        print(f"{name:12s} {interval(values)}")
    for one, other in (
        *(("mask", "still"), ("mask", "alone"), ("click", "alone")),
        *(("click", "alone_click"), ("kept_sets", "kept_alone")),
    ):
        print(f"{one} - {other}: {interval(scores[one] - scores[other])}")
    frames = [frame for record in records for frame in record["frames"]]
    for name in ("mask", "click"):
        trust = np.array([frame[f"{name}_trust"] for frame in frames])
        good = np.array([frame[name] for frame in frames]) > 0.5
        pairs = trust[good][:, None] - trust[~good][None]
        if pairs.size:
            auc = float(((pairs > 0) + 0.5 * (pairs == 0)).mean())
            print(f"{name}: AUC of trust for IoU > .5 {auc:.3f}, {(~good).sum()} below")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--sequences", type=int)
    parser.add_argument("--say", action="store_true")
    given = parser.parse_args()
    if not given.say:
        measure(given.folder, given.results, given.sequences)
    say(given.results)


if __name__ == "__main__":
    main()
