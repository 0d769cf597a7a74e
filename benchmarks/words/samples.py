"""Samples from prompts, with and without guidance: are the words obeyed?

Prompts are those of composed pictures that training never showed; the same prompts and
noise in all cells. Scores: FD, KID, precision and recall in the features of the judge
against real compositions; and `obeyed`, the share of asked garments, in the asked
colour, that the judge sees. Cells are named as in `benchmarks/guidance/sample.py`;
`cfgN` is classifier-free guidance of that scale. FLUX runs both sides of it one after
the other, and our guidance refuses that, so the two are not combined.

    python benchmarks/words/samples.py --data FOLDER --model FOLDER --judge FILE
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from garments import Wardrobe, compose
from judge import JUDGE, Judge, load_judge, pixels_of, seen_in
from model import arguments, load_pipeline
from PIL import Image

from attnchain.evaluate.report import interval
from attnchain.guidance import guide

sys.path.insert(0, str(Path(__file__).parents[1] / "guidance"))
from metrics import all_scores, moments
from outputs import save_picture
from sample import guidance_of

CHUNK = 50
STEPS = 12
REAL = 4000
CELLS = ("none", "cfg3", "sag-s1", "rank-s1", "bounce-n3-s1", "shuffled-s1", "all-s1")
COLUMNS = ("FD", "KID", "precision", "recall", "obeyed", "pairs")


def prompts_of(wardrobe: Wardrobe, seed: int, chunk: int) -> list[Any]:
    """Compositions of two garments whose prompts are given; unseen pairs."""
    seeds = range(chunk * CHUNK, (chunk + 1) * CHUNK)
    return [
        compose(wardrobe, (5, seed, n), count=2, unseen=True, distinct=True)
        for n in seeds
    ]


def sampled(pipeline: Any, prompts: list[str], cell: str, seed: int) -> torch.Tensor:
    """Pictures (b, 3, 32, 32) in [0, 1]."""
    torch.manual_seed(seed)
    options: dict[str, Any] = {
        "num_inference_steps": STEPS,
        "guidance_scale": 1.0,
        "generator": torch.Generator().manual_seed(seed),
        "output_type": "pt",
    }
    if cell.startswith("cfg"):
        scale = float(cell.removeprefix("cfg"))
        empty = [""] * len(prompts)
        options |= {"true_cfg_scale": scale, "negative_prompt": empty}
    guidance = None if cell.startswith("cfg") else guidance_of(cell)
    if guidance is None:
        return pipeline(prompts, **options).images
    with guide(pipeline, guidance):
        return pipeline(prompts, **options).images


def made(
    args: argparse.Namespace, parts: dict[str, Any], cell: str, seed: int, chunk: int
) -> np.ndarray:
    """A chunk of a cell as bytes (b, 32, 32, 3), made once."""
    path = args.out / "samples" / cell / f"seed{seed}" / f"{chunk:03d}.npy"
    if not path.exists():
        prompts = [c.prompt for c in prompts_of(parts["wardrobe"], seed, chunk)]
        found = sampled(parts["pipeline"], prompts, cell, 1_000_003 * seed + chunk)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".part.npy")
        np.save(temporary, found.mul(255).round().byte().permute(0, 2, 3, 1).numpy())
        temporary.replace(path)
    return np.load(path)


def obeyed(judge: Judge, pixels: torch.Tensor, asked: list[Any]) -> dict[str, float]:
    """Asked garments that are seen in the asked colour; pictures with all of them."""
    rows = []
    for composition, seen in zip(asked, seen_in(judge, pixels), strict=True):
        have = {(one.garment, one.colour) for one in seen}
        rows.append([(t.garment, t.colour) in have for t in composition.things])
    return {
        "obeyed": float(np.mean([np.mean(row) for row in rows])),
        "pairs": float(np.mean([all(row) for row in rows])),
    }


@torch.no_grad()
def features(judge: Judge, pixels: torch.Tensor) -> np.ndarray:
    return torch.cat([judge.features(part) for part in pixels.split(250)]).numpy()


def reference(parts: dict[str, Any]) -> dict[str, Any]:
    """Real compositions: moments of one half, features of the other."""
    real = [
        compose(parts["wardrobe"], (6, n), count=2, unseen=True, distinct=True)
        for n in range(REAL)
    ]
    found = features(parts["judge"], pixels_of(real))
    center, spread = found.mean(0), found.std(0) + 1e-6
    found = (found - center) / spread
    mean, covariance = moments(found[: REAL // 2])
    return {
        "mean": mean,
        "covariance": covariance,
        "features": found[REAL // 2 :][:1000],
        "scale": (center, spread),
        "obeyed": obeyed(parts["judge"], pixels_of(real[:1000]), real[:1000]),
    }


def scored(
    args: argparse.Namespace, parts: dict[str, Any], real: dict[str, Any], cell: str
) -> list[dict[str, float]]:
    """Scores of a cell, one row a seed."""
    rows = []
    for seed in args.seeds:
        chunks = range(args.count // CHUNK)
        pixels = np.concatenate([made(args, parts, cell, seed, c) for c in chunks])
        asked = [c for n in chunks for c in prompts_of(parts["wardrobe"], seed, n)]
        found = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        center, spread = real["scale"]
        scaled = (features(parts["judge"], found) - center) / spread
        scores = all_scores(real, scaled, np.full((len(scaled), 1), 1.0))
        rows.append(scores | obeyed(parts["judge"], found, asked))
        print(cell, seed, {k: round(v, 3) for k, v in rows[-1].items()}, flush=True)
    return rows


def _table(results: dict[str, list[dict[str, float]]], real: dict[str, Any]) -> str:
    head = "| cell | " + " | ".join(COLUMNS) + " | obeyed - none |"
    lines = [head, "|---" * (len(COLUMNS) + 2) + "|"]
    shown = " | ".join(["-"] * 4 + [f"{real['obeyed'][k]:.3f}" for k in COLUMNS[4:]])
    lines.append(f"| real compositions | {shown} | |")
    for cell, rows in results.items():
        cells = [_mean(rows, name) for name in COLUMNS]
        apart = [
            a["obeyed"] - b["obeyed"]
            for a, b in zip(rows, results["none"], strict=True)
        ]
        low, high = interval(apart)
        gain = f"{np.mean(apart):+.3f} [{low:+.3f}, {high:+.3f}]" * (cell != "none")
        lines.append(f"| {cell} | {' | '.join(cells)} | {gain} |")
    return "\n".join(lines)


def _mean(rows: list[dict[str, float]], name: str) -> str:
    values = np.array([row[name] for row in rows])
    error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{values.mean():.3f} ± {error:.3f}"


def picture(args: argparse.Namespace, parts: dict[str, Any]) -> None:
    """Samples of the first cells under their prompts, 12 in a row."""
    asked = prompts_of(parts["wardrobe"], args.seeds[0], 0)[:12]
    rows = [pixels_of(asked).permute(0, 2, 3, 1).mul(255).byte().numpy()]
    rows += [made(args, parts, cell, args.seeds[0], 0)[:12] for cell in args.cells]
    large = np.concatenate([np.concatenate(list(row), 1) for row in rows])
    image = Image.fromarray(large.repeat(3, 0).repeat(3, 1))
    prompts = [composition.prompt for composition in asked]
    settings = {"rows": ["real", *args.cells], "prompts": prompts}
    save_picture(image, args.out / "samples.png", settings)


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    parts = {
        "pipeline": load_pipeline(args.model),
        "judge": load_judge(args.judge),
        "wardrobe": Wardrobe(args.data, "t10k"),
    }
    real = reference(parts)
    results = {c: scored(args, parts, real, c) for c in args.cells}
    (args.out / "samples.json").write_text(json.dumps(results, indent=1))
    (args.out / "samples.md").write_text(_table(results, real) + "\n")
    picture(args, parts)


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--judge", type=Path, default=JUDGE)
    parser.add_argument("--cells", nargs="+", default=CELLS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--count", type=int, default=1000)
    main(parser.parse_args())
