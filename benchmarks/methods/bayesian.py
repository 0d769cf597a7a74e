"""Bayesian attention: a graph network on Cora, and TokenRank with intervals.

    python benchmarks/methods/bayesian.py --cora ../shared/data/cora \\
        --pictures ../shared/data/voc99

Arms differ in how attention weights are drawn while learning; initial weights, split
and stopping are the same for a seed. Each run is kept in OUT/runs as it ends: a killed
benchmark goes on where it stopped. Writes OUT/bayesian.md (tables), OUT/bayesian.json
and OUT/bayesian.png. About ten minutes on one idle core.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from bayesian_gat import Graph, Run, one_run
from bayesian_rank import picture, rank_table, ranks
from scipy import stats

from attnchain.methods import DirichletWeights, LogNormalWeights, WeibullWeights

ARMS = {
    "soft": Run(None, 0.0),
    "Weibull, k 10": Run(WeibullWeights(10.0), 0.1),
    "log-normal, .5": Run(LogNormalWeights(0.5), 0.1),
    "Dirichlet, c 350": Run(DirichletWeights(350.0), 0.1),
}
COLUMNS = {
    "accuracy": "accuracy",
    "nll": "NLL",
    "ece": "ECE",
    "scaled nll": "NLL, scaled",
    "scaled ece": "ECE, scaled",
    "drawn: pavpu": "PAvPU",
    "drawn, drop-out: pavpu": "PAvPU, drop-out on",
    "drawn, drop-out: nll": "NLL, drop-out on",
}


def graph_runs(args):
    graph = Graph.read(args.cora)
    found = {name: [] for name in ARMS}
    for seed in range(args.seeds):
        for name, run in ARMS.items():
            file = args.out / "runs" / f"{name}-{seed}-{args.epochs}.json"
            if not file.exists():
                file.write_text(json.dumps(one_run(run, graph, seed, args.epochs)))
            found[name].append(json.loads(file.read_text()))
            last = found[name][-1]
            print(name, seed, last["accuracy"], last["nll"], flush=True)
    return found


def paired(ours, base):
    """Mean difference over seeds and the half width of its 95 % t-interval."""
    gap = np.array(ours) - np.array(base)
    width = stats.t.ppf(0.975, len(gap) - 1) * gap.std(ddof=1) / len(gap) ** 0.5
    return float(gap.mean()), float(width)


def summary(found):
    rows = {}
    for name, runs in found.items():
        rows[name] = {}
        for key in COLUMNS:
            values = [run[key] for run in runs]
            base = [run[key] for run in found["soft"]]
            gap, width = paired(values, base)
            rows[name][key] = {
                "mean": float(np.mean(values)),
                "over soft": gap,
                "half width": width,
            }
    return rows


def graph_table(rows, seeds):
    lines = [
        f"Cora, test nodes, {seeds} seeds: mean, and the paired difference to soft "
        "attention with its 95 % interval.",
        "",
        "| attention | " + " | ".join(COLUMNS.values()) + " |",
        "|---|" + "---|" * len(COLUMNS),
    ]
    for name, row in rows.items():
        cells = [_cell(name, key, cell) for key, cell in row.items()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(name, key, cell):
    mean = f"{cell['mean']:.3f}"
    if key == "drawn: pavpu":  # soft attention draws nothing to be compared with
        return "" if name == "soft" else mean
    if name == "soft":
        return mean
    return f"{mean} ({cell['over soft']:+.3f} ± {cell['half width']:.3f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cora", type=Path, default=Path("../shared/data/cora"))
    parser.add_argument("--pictures", type=Path, default=Path("../shared/data/voc99"))
    parser.add_argument("--out", type=Path, default=Path("out/bayesian"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=250)
    parser.add_argument("--count", type=int, default=16, help="pictures")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    (args.out / "runs").mkdir(parents=True, exist_ok=True)
    runs = graph_runs(args)
    rows = summary(runs)
    ranked = ranks(args.pictures, args.count, args.out / "runs")
    text = graph_table(rows, args.seeds) + "\n" + rank_table(ranked)
    (args.out / "bayesian.md").write_text(text)
    kept = {"cora": rows, "runs": runs, "ranks": ranked}
    (args.out / "bayesian.json").write_text(json.dumps(kept, indent=1) + "\n")
    picture(rows, list(COLUMNS)[:3], args.out / "bayesian.png")
    print(text)


if __name__ == "__main__":
    main()
