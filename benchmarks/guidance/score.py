"""Score every sampled cell: a Markdown table with standard errors over seeds.

    python benchmarks/guidance/score.py --runs runs --data FOLDER \
        --classifier classifier.safetensors --out scores.json
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from classifier import describe, load_classifier
from data import DEFAULT_FOLDER, load
from metrics import all_scores, moments
from sample import CHUNK

NAMES = ("FD", "KID", "IS", "precision", "recall")


def reference(args, network) -> dict:
    """Moments of the training pictures, features of held-out ones.

    Every feature is scaled to mean 0 and deviation 1 over the training pictures.
    """
    train, _ = describe(network, load(args.data, "train")[0])
    center, spread = train.mean(0), train.std(0)
    mean, covariance = moments((train - center) / spread)
    features, probabilities = describe(network, load(args.data, "t10k")[0])
    features = (features - center) / spread
    half = slice(args.count, 2 * args.count)
    return {
        "scale": (center, spread),
        "mean": mean,
        "covariance": covariance,
        "features": features[: args.count],
        "rest": (features[half], probabilities[half]),
    }


def made(folder: Path, count: int, network) -> tuple[np.ndarray, np.ndarray, float]:
    chunks = [np.load(path) for path in sorted(folder.glob("[0-9][0-9][0-9].npz"))]
    pixels = np.concatenate([chunk["pixels"] for chunk in chunks])[:count]
    pictures = torch.from_numpy(pixels)[:, None].float().div(127.5).sub(1)
    masked = float(np.mean([chunk["masked"] for chunk in chunks]))
    return *describe(network, pictures), masked


def score_cell(folder: Path, args, network, real: dict) -> list[dict]:
    rows = []
    for seed in sorted(folder.glob("seed*")):
        if len(list(seed.glob("[0-9][0-9][0-9].npz"))) * CHUNK < args.count:
            continue
        features, probabilities, masked = made(seed, args.count, network)
        center, spread = real["scale"]
        features = (features - center) / spread
        rows.append(all_scores(real, features, probabilities) | {"masked": masked})
    return rows


def line(cell: str, rows: list[dict], count: int) -> str:
    parts = [cell, f"{len(rows)} x {count}"]
    for name in NAMES:
        values = np.array([row[name] for row in rows])
        error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else None
        digits = 3 if name in ("precision", "recall", "IS", "FD") else 2
        shown = f"{values.mean():.{digits}f}"
        parts.append(shown if error is None else f"{shown} ± {error:.{digits}f}")
    parts.append(f"{np.mean([row['masked'] for row in rows]):.2f}")
    return "| " + " | ".join(parts) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--classifier", type=Path, required=True)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--out", type=Path, required=True)
    torch.set_num_threads(1)
    args = parser.parse_args()
    network = load_classifier(args.classifier)
    real = reference(args, network)
    saved = json.loads(args.out.read_text()) if args.out.exists() else {}
    count = str(args.count)
    results = saved.setdefault(count, {})
    rest = all_scores(real, *real["rest"]) | {"masked": 0.0}
    results["real pictures, held out"] = [rest]
    for folder in sorted(path for path in args.runs.iterdir() if path.is_dir()):
        if len(list(folder.glob("seed*"))) > len(results.get(folder.name, [])):
            rows = score_cell(folder, args, network, real)
            if rows:
                results[folder.name] = rows
    args.out.write_text(json.dumps(saved, indent=1, sort_keys=True))
    print(f"| cell | samples | {' | '.join(NAMES)} | blurred |")
    print("|---" * (len(NAMES) + 3) + "|")
    for cell, rows in results.items():
        print(line(cell, rows, args.count))


if __name__ == "__main__":
    main()
