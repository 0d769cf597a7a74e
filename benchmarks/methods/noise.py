"""Label noise on Fashion-MNIST: VolMinNet beside what it is compared with.

Five ways to learn from noisy labels: cross-entropy as if they were clean, forward
correction with a transition read off the surest examples (anchors, at the maximum and
at the 97 % quantile), VolMinNet, and forward correction with the true transition (the
ceiling). One perceptron, one training loop, one split for all.

    python benchmarks/methods/noise.py --data ../shared/data/fashion-mnist/data

Each run is kept in OUT/runs as it ends: a killed benchmark goes on where it stopped.
Writes OUT/noise.md (table), OUT/noise.json and OUT/noise.png. About 25 minutes on one
idle core.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "guidance"))
from data import CLASSES, DEFAULT_FOLDER, load

from attnchain.markov import metastable_sets, second_eigenvalue, stationary
from attnchain.noise import (
    NoiseTransition,
    VolumeMinimized,
    log_volume,
    rivals,
    scattering,
    transition_error,
)
from attnchain.noise.fitting import Settings, Training, split
from attnchain.operators import DenseTransition

NAMES = (
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "boot",
)
METHODS = (
    "cross-entropy",
    "forward, anchors",
    "forward, anchors 97 %",
    "VolMinNet",
    "forward, true T",
)
NOISES = (("symmetric", 0.2), ("symmetric", 0.5), ("pair", 0.45))


def transition_of(kind: str, rate: float) -> torch.Tensor:
    own = torch.eye(CLASSES)
    if kind == "pair":
        return (1 - rate) * own + rate * own.roll(1, 1)
    return (1 - rate) * own + rate * (1 - own) / (CLASSES - 1)


class Fixed(nn.Module):
    """A transition that is not learned."""

    def __init__(self, matrix):
        super().__init__()
        self.register_buffer("matrix", matrix)

    def forward(self):
        return self.matrix


def perceptron():
    layers = [nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Linear(256, CLASSES))


def corrected(matrix, features, labels, settings):
    """A classifier learned with a transition that stays as it is."""
    torch.manual_seed(settings.seed)
    training = Training(perceptron(), Fixed(matrix), settings)
    for _ in training.run(*split(features, labels, settings)):
        pass
    training.restore_best()
    return training.classifier


def anchored(model, features, quantile):
    """The noisy posterior at the example surest (or nearly so) of each class."""
    with torch.no_grad():
        rows = torch.cat([model(x).softmax(-1) for x in features.split(4096)])
    if quantile is not None:
        limit = rows.quantile(quantile, 0)
        rows = torch.where(rows > limit, 0.0, rows)
    return torch.stack([rows[rows[:, c].argmax()] for c in range(CLASSES)])


def accuracy(model, features, classes):
    with torch.no_grad():
        return float((model(features).argmax(-1) == classes).float().mean())


def one_cell(kind, rate, seed, data, epochs):
    """All methods on one draw of the labels."""
    features, classes, test, truth = data
    true = transition_of(kind, rate)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.multinomial(true[classes], 1, generator=generator)[:, 0]
    settings = Settings(epochs=epochs, seed=seed)
    found, begun = {}, time.perf_counter()
    plain = corrected(torch.eye(CLASSES), features, labels, settings)
    matrices = {
        "cross-entropy": torch.eye(CLASSES),
        "forward, anchors": anchored(plain, features, None),
        "forward, anchors 97 %": anchored(plain, features, 0.97),
        "forward, true T": true,
    }
    for name, matrix in matrices.items():
        rows = matrix / matrix.sum(-1, keepdim=True)
        model = plain
        if name != "cross-entropy":
            model = corrected(rows, features, labels, settings)
        found[name] = accuracy(model, test, truth), transition_error(rows, true)
    torch.manual_seed(seed)
    model = VolumeMinimized(CLASSES, perceptron(), epochs=epochs, seed=seed)
    model.fit(features, labels)
    estimate = model.transition_.to_dense()
    start = NoiseTransition(CLASSES)().detach()
    found["VolMinNet"] = (
        accuracy(model.classifier_, test, truth),
        transition_error(estimate, true),
    )
    return {
        "kind": kind,
        "rate": rate,
        "seed": seed,
        "epochs": epochs,
        "found": found,
        "transition": estimate.tolist(),
        "start error": transition_error(start, true),
        "scattering": model.scattering_,
        "seconds": round(time.perf_counter() - begun),
    }


def control(seeds):
    """Exact clean posteriors, as scattered as told: where the method must fail.

    Relative error of T, learned from noisy posteriors of a free table of clean ones.
    """
    rows = []
    for name in ("anchors", "scattered, no anchors", "shrunk to the middle", "disc"):
        found = [_table_fit(name, seed) for seed in seeds]
        errors, opens, others = zip(*found, strict=True)
        rows.append((name, float(np.mean(errors)), max(opens), max(others)))
    return rows


def _posteriors(name, generator):
    raw = torch.distributions.Dirichlet(torch.full((3,), 0.3)).sample((2000,))
    if name == "anchors":
        return torch.cat([torch.eye(3), raw])
    if name == "scattered, no anchors":
        return raw[raw.amax(-1) < 0.85]
    if name == "shrunk to the middle":
        return 0.4 * torch.cat([torch.eye(3), raw]) + 0.6 / 3
    angle = 6.2832 * torch.rand(2000, generator=generator)
    u, v = torch.tensor([1.0, -1, 0]) / 2**0.5, torch.tensor([1.0, 1, -2]) / 6**0.5
    return 1 / 3 + 0.25 * (angle.cos()[:, None] * u + angle.sin()[:, None] * v)


def _table_fit(name, seed):
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    true = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.1, 0.7]])
    noisy = _posteriors(name, generator) @ true
    table = nn.Parameter(noisy.clamp_min(1e-6).log())
    module = NoiseTransition(3)
    optimizer = torch.optim.Adam([table, *module.parameters()], lr=0.03)
    for _ in range(3000):
        matrix = module()
        fit = -(noisy * (table.softmax(-1) @ matrix).log()).sum(-1).mean()
        optimizer.zero_grad()
        (fit + 1e-3 * log_volume(matrix)).backward()
        optimizer.step()
    clean = table.detach().double().softmax(-1)
    return transition_error(module().detach(), true), scattering(clean), rivals(clean)


def summary(cells):
    rows = []
    for kind, rate in NOISES:
        chosen = [c for c in cells if (c["kind"], c["rate"]) == (kind, rate)]
        for method in METHODS:
            pairs = np.array([c["found"][method] for c in chosen])
            against = np.array([c["found"]["VolMinNet"] for c in chosen])
            gain = (against - pairs)[:, 0]
            rows.append(
                {
                    "noise": f"{kind} {rate:.0%}",
                    "method": method,
                    "accuracy": pairs[:, 0].mean(),
                    "spread": np.ptp(pairs[:, 0]),
                    "T error": pairs[:, 1].mean(),
                    "VolMinNet ahead": (gain.min(), gain.max()),
                    "seeds": len(chosen),
                }
            )
    return rows


def table(rows, controls, cells):
    lines = [
        "| noise | method | test accuracy (largest - smallest) | error of T "
        "| VolMinNet is ahead by, over seeds |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = row["VolMinNet ahead"]
        lead = "" if row["method"] == "VolMinNet" else f"{low:+.3f} to {high:+.3f}"
        lines.append(
            f"| {row['noise']} | {row['method']} | {row['accuracy']:.3f} "
            f"({row['spread']:.3f}) | {row['T error']:.3f} | {lead} |"
        )
    starts = {f"{c['kind']} {c['rate']:.0%}": c["start error"] for c in cells}
    told = ", ".join(f"{name} {value:.3f}" for name, value in starts.items())
    lines += ["", f"Error of T before anything is learned: {told}.", ""]
    lines += [
        "| clean posteriors | error of T | scattering (1) | rivals (0) |",
        "|---|---|---|---|",
    ]
    lines += [f"| {n} | {e:.3f} | {r:.2f} | {o:.2f} |" for n, e, r, o in controls]
    return "\n".join(lines) + "\n"


def picture(cells, file):
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    for ax, (kind, rate) in zip(figure.subplots(1, 3), NOISES, strict=True):
        cell = next(c for c in cells if (c["kind"], c["rate"]) == (kind, rate))
        chain = DenseTransition(torch.tensor(cell["transition"]).double())
        image = ax.imshow(chain.to_dense(), vmin=0, vmax=1, cmap="viridis")
        ax.set_xticks(range(CLASSES), NAMES, rotation=60, ha="right", fontsize=7)
        ax.set_yticks(range(CLASSES), NAMES, fontsize=7)
        modulus = float(second_eigenvalue(chain).modulus)
        ax.set_title(f"{kind} {rate:.0%}, |lambda_2| {modulus:.2f}", fontsize=9)
        ax.set_xlabel("noisy label")
    figure.axes[0].set_ylabel("clean class")
    figure.colorbar(image, ax=figure.axes, label="probability found by VolMinNet")
    figure.savefig(file, dpi=130)


def chain_of(cells):
    """What the chain of the labels tells beside its entries."""
    told = {}
    for cell in cells:
        chain = DenseTransition(torch.tensor(cell["transition"]).double())
        pi = stationary(chain).distribution
        told[f"{cell['kind']} {cell['rate']:.0%}"] = {
            "second eigenvalue": float(second_eigenvalue(chain).modulus),
            "stationary, smallest and largest": [float(pi.min()), float(pi.max())],
            "metastable sets": len(metastable_sets(chain).prevalence),
        }
    return told


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--out", type=Path, default=Path("out/noise"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    (args.out / "runs").mkdir(parents=True, exist_ok=True)
    data = *load(args.data, "train"), *load(args.data, "t10k")
    cells = []
    for kind, rate in NOISES:
        for seed in range(args.seeds):
            file = args.out / "runs" / f"{kind}-{rate}-{seed}-{args.epochs}.json"
            if not file.exists():
                cell = one_cell(kind, rate, seed, data, args.epochs)
                file.write_text(json.dumps(cell))
                print(file.stem, cell["found"], f"{cell['seconds']} s", flush=True)
            cells.append(json.loads(file.read_text()))
    controls = control(range(args.seeds))
    rows = summary(cells)
    (args.out / "noise.md").write_text(table(rows, controls, cells))
    kept = {"cells": cells, "controls": controls, "chains": chain_of(cells)}
    (args.out / "noise.json").write_text(json.dumps(kept, indent=1))
    picture(cells, args.out / "noise.png")
    print((args.out / "noise.md").read_text())


if __name__ == "__main__":
    main()
