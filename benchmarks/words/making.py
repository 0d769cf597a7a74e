"""Generated pictures segmented by their own words, while they are made.

Prompts of two garments, classifier-free guidance; at every step the map of each word is
compared with what the judge sees in the finished picture, where it sees what was asked.
Then two uses of TokenRank on composed pictures: DiffSeg's anchors against a regular
grid, and blanking the tokens of highest rank (what the judge still names rightly)
against column sum and random ones.

    python benchmarks/words/making.py --data FOLDER --model FOLDER
"""

import argparse
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from claims import ALL, TASKS, kept_run
from garments import SIDE, Composition, Wardrobe, compose
from judge import JUDGE, Judge, load_judge, pixels_of, seen_in
from model import arguments, load_pipeline
from reading import read
from samples import CHUNK, STEPS, obeyed
from scoring import scores_of

from attnchain import capture, token_rank
from attnchain.capturing import TokenGrid
from attnchain.evaluate.metrics import covering
from attnchain.evaluate.report import mean_and_interval
from attnchain.maps import enlarge, largest
from attnchain.methods.diffseg import grid_anchors, merge_maps, rank_anchors
from attnchain.operators import AbstractTransition
from attnchain.ranking import TokenRank
from attnchain.text import segment_words, text_attention

GUIDED = 3.0
SHARES = (0.1, 0.2, 0.3, 0.4)
ANCHORS = (16, 36, 64)
THRESHOLDS = (0.02, 0.05, 0.1, 0.2)


def while_made(args: argparse.Namespace, pipeline: Any, judge: Judge) -> dict[str, Any]:
    """Scores by step of maps by column select and two bounces, where all is obeyed."""
    scores: dict[str, list[list[float]]] = {"1": [], "2": []}
    right: dict[str, list[list[float]]] = {"1": [], "2": []}
    for chunk in range(args.made // CHUNK):
        seeds = range(chunk * CHUNK, (chunk + 1) * CHUNK)
        asked = [compose(args.wardrobe, (9, n), count=2, distinct=True) for n in seeds]
        for number, composition in enumerate(asked):
            generator = torch.Generator().manual_seed(10_000 * chunk + number)
            options = {"num_inference_steps": STEPS, "generator": generator}
            options |= {"true_cfg_scale": GUIDED, "negative_prompt": ""}
            with capture(pipeline) as captured:
                image = pipeline(composition.prompt, output_type="pt", **options).images
            masks = _asked_masks(judge, image, composition)
            if masks is None:
                continue
            for bounces, rows in scores.items():
                maps = [
                    _maps(captured, pipeline, composition, step, int(bounces))
                    for step in range(STEPS)
                ]
                found = [scores_of(one, masks) for one in maps]
                rows.append([one["ap"] for one in found])
                right[bounces].append([one["right"] for one in found])
    return {"ap": scores, "right": right}


def _asked_masks(
    judge: Judge, image: torch.Tensor, composition: Composition
) -> list[np.ndarray] | None:
    """Where the judge sees what was asked; None where it misses something."""
    found = {(one.garment, one.colour): one.mask for one in seen_in(judge, image)[0]}
    asked = [(thing.garment, thing.colour) for thing in composition.things]
    return [found[one] for one in asked] if all(one in found for one in asked) else None


def _maps(
    captured: Any, pipeline: Any, composition: Composition, step: int, bounces: int
) -> np.ndarray:
    attention = text_attention(
        captured,
        pipeline=pipeline,
        prompt=composition.prompt,
        weights="uniform",
        steps=step,
    )
    words = [thing.words for thing in composition.things]
    found = segment_words(attention, words, bounces=bounces, size=(SIDE, SIDE))
    return enlarge(found.walks, width=SIDE, height=SIDE).numpy()


@dataclass(frozen=True)
class Patches:
    """What DiffSeg's anchors need of a picture's attention."""

    chain: AbstractTransition
    grid: TokenGrid

    @cached_property
    def rank(self) -> TokenRank:
        return token_rank(self.chain)


def readings(args: argparse.Namespace, pipeline: Any, count: int) -> list[Any]:
    """Composed pictures of three garments, and what their patches attend to."""
    task, found = TASKS[1], []
    grid = TokenGrid(rows=SIDE // 2, columns=SIDE // 2)
    for start in range(0, count, CHUNK):
        part = task.pictures(args.wardrobe, 20_000 + start, CHUNK, unseen=True)
        words = [task.words(composition) for composition in part]
        prompts = [composition.prompt for composition in part]
        reading = read(pipeline, task.pixels(part), prompts, words, args.noise, start)
        chains = reading.patch_chain(ALL)
        found += [(c, Patches(chains[row], grid)) for row, c in enumerate(part)]
    return found


def anchored(found: list[Any]) -> dict[str, list[float]]:
    """Covering of garments and ground by DiffSeg's regions, by anchors and setting."""
    scores: dict[str, list[float]] = {}
    for composition, patches in found:
        drawn = torch.zeros(SIDE, SIDE, dtype=torch.long)
        for number, thing in enumerate(composition.things, start=1):
            drawn[torch.from_numpy(thing.mask)] = number
        for name, place in (("TokenRank", rank_anchors), ("grid", grid_anchors)):
            for count in ANCHORS:
                anchors = place(patches, count)
                for threshold in THRESHOLDS:
                    maps = merge_maps(patches.chain, anchors, threshold=threshold)
                    square = patches.grid.to_map(maps)
                    labels = largest(square, width=SIDE, height=SIDE)
                    key = f"{name}|{count}|{threshold}"
                    scores.setdefault(key, []).append(covering(labels, drawn))
    return scores


def blanked(judge: Judge, found: list[Any]) -> dict[str, list[float]]:
    """Garments still named rightly when the tokens of highest rank are blank."""
    scores: dict[str, list[float]] = {}
    for composition, patches in found:
        dense = patches.chain.to_dense()
        order = {
            "TokenRank": patches.rank.distribution,
            "TokenRank, outgoing": token_rank(
                patches.chain, direction="outgoing"
            ).distribution,
            "column sum": dense.sum(-2),
            "random": torch.rand(
                len(dense), generator=torch.Generator().manual_seed(len(scores))
            ),
        }
        for (name, values), share in _pairs(order):
            count = round(share * len(values))
            blank = torch.zeros(len(values))
            blank[values.topk(count).indices] = 1
            mask = (
                blank.view(SIDE // 2, -1)
                .repeat_interleave(2, 0)
                .repeat_interleave(2, 1)
            )
            pixels = pixels_of([composition])
            mean = pixels.mean((2, 3), keepdim=True)
            shown = torch.where(mask.bool(), mean, pixels)
            value = obeyed(judge, shown, [composition])["obeyed"]
            scores.setdefault(f"{name}|{share}", []).append(value)
    return scores


def _pairs(order: dict[str, torch.Tensor]) -> list[Any]:
    return [(one, share) for one in order.items() for share in SHARES]


def _by_step(scores: dict[str, Any]) -> list[str]:
    """Rows of the table of steps; none where no picture shows what was asked."""
    if not scores["ap"]["1"]:
        return ["No picture shows what was asked."]
    lines = [
        "| step of 12 | AP, column select | AP, 2 bounces | right word, column |",
        "|---|---|---|---|",
    ]
    for step in range(STEPS):
        cells = [
            mean_and_interval([row[step] for row in rows])
            for rows in (scores["ap"]["1"], scores["ap"]["2"], scores["right"]["1"])
        ]
        lines.append(f"| {step + 1} | {' | '.join(cells)} |")
    shown = len(scores["ap"]["1"])
    return [*lines, "", f"{shown} pictures that show what was asked."]


def _anchors_table(scores: dict[str, list[float]]) -> list[str]:
    """Settings chosen on the first half of the pictures, reported on the second."""
    lines = ["| anchors | number | threshold | covering |", "|---|---|---|---|"]
    for name in ("TokenRank", "grid"):
        mine = {k: v for k, v in scores.items() if k.startswith(name)}
        best = max(mine, key=lambda key: np.mean(mine[key][: len(mine[key]) // 2]))
        half = mine[best][len(mine[best]) // 2 :]
        _, count, threshold = best.split("|")
        lines.append(f"| {name} | {count} | {threshold} | {mean_and_interval(half)} |")
    return lines


def _blank_table(scores: dict[str, list[float]]) -> list[str]:
    names = list(dict.fromkeys(key.split("|")[0] for key in scores))
    lines = [
        "| blanked first | " + " | ".join(f"{s:.0%}" for s in SHARES) + " |",
        "|---" * (len(SHARES) + 1) + "|",
    ]
    for name in names:
        cells = [mean_and_interval(scores[f"{name}|{share}"]) for share in SHARES]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    args.wardrobe = Wardrobe(args.data, "t10k")
    pipeline, judge = load_pipeline(args.model), load_judge(args.judge)
    made = kept_run(args.runs, "made", lambda: while_made(args, pipeline, judge))
    found = readings(args, pipeline, args.pictures)
    anchors = kept_run(args.runs, "anchors", lambda: anchored(found))
    blank = kept_run(args.runs, "blanked", lambda: blanked(judge, found))
    parts = {
        "Words of a picture while it is made": _by_step(made),
        "Anchors of DiffSeg": _anchors_table(anchors),
        "Garments still named, tokens blanked": _blank_table(blank),
    }
    text = "\n\n".join(f"### {t}\n\n" + "\n".join(lines) for t, lines in parts.items())
    (args.out / "making.md").write_text(text + "\n")
    (args.out / "making.json").write_text(
        json.dumps({"anchors": anchors, "blanked": blank}, indent=1)
    )


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--judge", type=Path, default=JUDGE)
    parser.add_argument("--made", type=int, default=100)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--noise", type=float, default=0.5)
    given = parser.parse_args()
    given.runs = given.out / "runs"
    main(given)
