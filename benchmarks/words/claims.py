"""The paper's claims on words, on a model that was trained on them.

Three tasks: one garment in colour; three garments in colour, found by "red bag"; three
garments on a grey picture, found by "bag", where only shape tells. Every rule takes the
noise level and the blocks that suit it on pictures of one set of garments and colours
(average precision), and is scored on others: garments of Fashion-MNIST's test set, in
pairs of garment and colour that training never showed (on the grey task: no colour).

    python benchmarks/words/claims.py --data FOLDER --model FOLDER

Runs are kept in OUT/runs as they end. Writes OUT/claims.json and OUT/claims.md.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from garments import NAMES, SIDE, Composition, Wardrobe, compose
from model import arguments, load_pipeline
from reading import Blocks, read
from rules import CHEAP, COLUMN, WHOLE, Rule
from scoring import scores_of

from attnchain.evaluate.report import interval
from attnchain.maps import enlarge

sys.path.insert(0, str(Path(__file__).parents[1] / "methods"))
from kept import kept_run

NOISES = (0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.98)
BATCH = 25
ALL: Blocks = (0, 1, 2, 3, 4, 5)
BLOCKS: tuple[Blocks, ...] = (ALL, *((block,) for block in ALL))
EVERY = "every noise"
SHOWN = ("ap", "stacked", "iou", "miou", "pooled", "acc", "right", "others")


@dataclass(frozen=True)
class Task:
    """What is shown and asked for."""

    name: str
    count: int
    grey: bool = False

    def pictures(self, wardrobe: Wardrobe, first: int, count: int, *, unseen: bool):
        seeds = range(first, first + count)
        options: dict[str, Any] = {"distinct": True, "unseen": unseen and not self.grey}
        return [compose(wardrobe, (3, n), count=self.count, **options) for n in seeds]

    def words(self, composition: Composition) -> tuple[str, ...]:
        if self.grey:
            return tuple(NAMES[thing.garment] for thing in composition.things)
        return tuple(thing.words for thing in composition.things)

    def pixels(self, found: Sequence[Composition]) -> torch.Tensor:
        shown = [c.grey if self.grey else c.picture for c in found]
        return torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2).float()


TASKS = (Task("one", 1), Task("several", 3), Task("grey", 3, grey=True))


def scored(
    pipeline: Any,
    task: Task,
    found: list[Composition],
    noise: float | str,
    rules: dict[str, tuple[Rule, Blocks]],
) -> dict[str, list[dict[str, float]]]:
    """Scores of every picture by every rule at one noise level, or the mean map."""
    levels = NOISES if noise == EVERY else (noise,)
    scores: dict[str, list[dict[str, float]]] = {name: [] for name in rules}
    for start in range(0, len(found), BATCH):
        part = found[start : start + BATCH]
        sums: dict[str, Any] = dict.fromkeys(rules, 0)
        for level in levels:
            words = [task.words(composition) for composition in part]
            prompts = [composition.prompt for composition in part]
            reading = read(pipeline, task.pixels(part), prompts, words, level, start)
            for name, (rule, blocks) in rules.items():
                maps = rule(reading, blocks).float()
                sums[name] = sums[name] + maps / maps.mean(-1, keepdim=True)
        for name, maps in sums.items():
            scores[name] += _of_pictures(maps, part)
    return scores


def _of_pictures(maps: torch.Tensor, part: list[Composition]) -> list[dict[str, float]]:
    side = SIDE // 2
    square = maps.unflatten(-1, (side, side)).transpose(0, 1)
    large = enlarge(square, width=SIDE, height=SIDE).numpy()
    return [
        scores_of(one, [thing.mask for thing in composition.things])
        for one, composition in zip(large, part, strict=True)
    ]


def chosen(
    args: argparse.Namespace, pipeline: Any, task: Task, wardrobe: Wardrobe
) -> dict[str, tuple[float, Blocks]]:
    """Noise and blocks of the best average precision, for every rule."""
    found = task.pictures(wardrobe, 0, args.choose, unseen=False)
    tried: dict[str, dict[tuple[float, Blocks], float]] = {name: {} for name in CHEAP}
    for noise in NOISES:
        rules = {
            f"{name}|{number}": (rule, blocks)
            for (name, rule), (number, blocks) in product(
                CHEAP.items(), enumerate(BLOCKS)
            )
        }
        make = partial(_means, pipeline, task, found, noise, rules)
        for key, value in kept_run(
            args.runs, f"choose-{task.name}-{noise}", make
        ).items():
            name, number = key.split("|")
            tried[name][noise, BLOCKS[int(number)]] = value
    best = {name: max(values, key=values.__getitem__) for name, values in tried.items()}
    whole = max(NOISES, key=lambda noise: tried[COLUMN][noise, ALL])
    return best | dict.fromkeys(WHOLE, (whole, ALL))


def _means(*given: Any) -> dict[str, float]:
    return {
        name: float(np.mean([row["ap"] for row in rows]))
        for name, rows in scored(*given).items()
    }


def reported(
    args: argparse.Namespace, pipeline: Any, task: Task, wardrobe: Wardrobe
) -> dict[str, Any]:
    """Scores of unseen pictures by every rule at its setting."""
    settings = chosen(args, pipeline, task, wardrobe)
    found = task.pictures(wardrobe, 10_000, args.report, unseen=True)
    rules = CHEAP | WHOLE
    rows: dict[str, Any] = {}
    for noise in NOISES:
        mine = {
            n: (rules[n], b) for n, (level, b) in settings.items() if level == noise
        }
        if mine:
            make = partial(scored, pipeline, task, found, noise, mine)
            rows |= kept_run(args.runs, f"report-{task.name}-{noise}", make)
    ablations = _ablations(args, pipeline, task, found, settings)
    return {"settings": settings, "scores": rows | ablations}


def _ablations(
    args: argparse.Namespace,
    pipeline: Any,
    task: Task,
    found: list[Composition],
    settings: dict[str, tuple[float, Blocks]],
) -> dict[str, Any]:
    """Column select: one knob turned at a time, and all steps together."""
    noise, blocks = settings[COLUMN]
    walk, rows = CHEAP[COLUMN], {}
    for level in (*NOISES, EVERY):
        make = partial(
            scored, pipeline, task, found, level, {f"at {level}": (walk, blocks)}
        )
        rows |= kept_run(args.runs, f"noise-{task.name}-{level}", make)
    each = {f"blocks {b}": (walk, b) for b in BLOCKS}
    make = partial(scored, pipeline, task, found, noise, each)
    return rows | kept_run(args.runs, f"blocks-{task.name}", make)


def _table(task: Task, result: dict[str, Any]) -> str:
    scores, settings = result["scores"], result["settings"]
    base = scores[COLUMN]
    names = [name for name in SHOWN if name in base[0]]
    lines = [
        f"### {TITLES[task.name]}",
        "",
        "| rule | noise | blocks | " + " | ".join(names) + " | AP - column select |",
        "|---" * (len(names) + 4) + "|",
    ]
    for rule, rows in sorted(scores.items(), key=lambda pair: -_mean(pair[1], "ap")):
        noise, blocks = settings.get(rule, ("", ()))
        cells = [f"{_mean(rows, name):.3f}" for name in names]
        apart = [a["ap"] - b["ap"] for a, b in zip(rows, base, strict=True)]
        low, high = interval(apart)
        shown = f"{np.mean(apart):+.3f} [{low:+.3f}, {high:+.3f}]" * (rule != COLUMN)
        place = "all" if blocks == ALL else " ".join(map(str, blocks))
        lines.append(f"| {rule} | {noise} | {place} | {' | '.join(cells)} | {shown} |")
    return "\n".join(lines)


TITLES = {
    "one": "One garment, in colour",
    "several": "Three garments, in colour, by two words",
    "grey": "Three garments on a grey picture, by the garment's word",
}


def _mean(rows: list[dict[str, float]], name: str) -> float:
    return float(np.mean([row[name] for row in rows]))


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    pipeline, wardrobe = load_pipeline(args.model), Wardrobe(args.data, "t10k")
    results = {t.name: reported(args, pipeline, t, wardrobe) for t in TASKS}
    means = {
        task: {
            rule: {key: _mean(rows, key) for key in rows[0]}
            for rule, rows in result["scores"].items()
        }
        for task, result in results.items()
    }
    (args.out / "claims.json").write_text(json.dumps(means, indent=1))
    tables = [_table(task, results[task.name]) for task in TASKS]
    (args.out / "claims.md").write_text("\n\n".join(tables) + "\n")


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--choose", type=int, default=50)
    parser.add_argument("--report", type=int, default=500)
    given = parser.parse_args()
    given.runs = given.out / "runs"
    main(given)
