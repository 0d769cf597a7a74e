"""Chain numerics side by side in one run: python benchmarks/numerics.py [--largest N].

Prints one table and writes it (CSV) with a picture of time and memory against n. Every
measurement runs in a fresh process, so its peak memory is its own. The GPU column
stays empty here: numerics_gpu.py measures there.
"""

import argparse
import csv
import multiprocessing
import re
import sys
import time
from dataclasses import astuple, dataclass, fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch
from matplotlib.figure import Figure
from numerics_chains import patch_heads
from numerics_methods import (
    METHODS,
    PRODUCT,
    RANK,
    SECOND,
    our_rank,
    our_second,
    prepared_products,
    published_rank,
    published_rank_rows,
)

from attnchain.markov import second_eigenvalue
from attnchain.operators import AttentionTransition, DenseTransition

ROWS = (14, 24, 32, 45, 64, 90, 128, 181, 256)
LAYER_HEAD = 30
GOAL_REPEATS = 3


@dataclass
class Row:
    question: str
    method: str
    heads: int
    tokens: int
    chain: str
    cpu_seconds: float | str
    mib: float | str
    error: float | str
    gpu_seconds: str = ""


def _peak():
    """Peak MiB of this process alone; getrusage would start from the parent's."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def _measure(job):
    """One method on one set of heads: seconds, MiB above the queries, result."""
    function, file, threads = job
    torch.set_num_threads(threads)
    q, k, scale = torch.load(file)
    with torch.no_grad():
        function(q[:1, :64], k[:1, :64], scale)
        before, start = _peak(), time.perf_counter()
        result = function(q, k, scale)
        return time.perf_counter() - start, max(0.0, _peak() - before), result


def _measure_products(job):
    _, file, threads = job
    torch.set_num_threads(threads)
    q, k, scale = torch.load(file)
    return {
        name: _best(product) for name, product in prepared_products(q, k, scale).items()
    }


def _best(function, repeats=3):
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def _fresh(worker, job):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(worker, (job,))


def _sizes(largest, threads, folder):
    for rows in (r for r in ROWS if r * r <= largest):
        q, k, scale, origin = patch_heads(rows)
        head = min(LAYER_HEAD, len(q) - 1)
        file = folder / f"heads_{rows}.pt"
        torch.save(
            (q[head : head + 1].clone(), k[head : head + 1].clone(), scale), file
        )
        n, results = rows * rows, {}
        for (question, method), (function, most) in METHODS.items():
            if most is not None and n > most:
                continue
            seconds, mib, result = _fresh(_measure, (function, file, threads))
            results[question, method] = result
            reference = results.get((question, "ours, auto"))
            row = Row(question, method, 1, n, origin, seconds, mib, "")
            yield row, result, reference
        for method, seconds in _fresh(_measure_products, (None, file, threads)).items():
            yield Row(PRODUCT, method, 1, n, origin, seconds, "", ""), None, None


def _with_errors(measured):
    """Errors against our certified answer, which comes after some of the others."""
    rows, waiting = [], []
    for row, result, reference in measured:
        rows.append(row)
        if result is not None and row.question != PRODUCT:
            waiting.append((row, result))
        for earlier, value in waiting if reference is not None else ():
            if earlier.question == row.question and earlier.tokens == row.tokens:
                distance = (value.double() - reference.double()).abs()
                earlier.error = float(distance.sum(-1).max())
        print(_line(row), flush=True)
    return rows


def _goals(threads):
    """The two goals of many heads, matrices of lambda_2 stored beforehand."""
    torch.set_num_threads(threads)
    q, k, scale, origin = patch_heads(32)
    rows = []
    exact = our_rank(q, k, scale)
    for name, function in (
        ("published: 200 steps, columns", published_rank),
        ("published, as row vectors", published_rank_rows),
        ("ours, auto", our_rank),
    ):
        start = time.perf_counter()
        result = function(q, k, scale)
        seconds = time.perf_counter() - start
        if function is our_rank:
            seconds = min(seconds, _best(lambda: our_rank(q, k, scale), GOAL_REPEATS))
        error = float((result.double() - exact).abs().sum(-1).max())
        rows.append(Row(RANK, name, len(q), 1_024, origin, seconds, "", error))
    chosen = slice(-12, None) if len(q) >= 12 else slice(None)
    heads = AttentionTransition(q[chosen], k[chosen], scale=scale)
    stored = DenseTransition.trusted(heads.to_dense())
    seconds = _best(lambda: second_eigenvalue(stored), GOAL_REPEATS)
    eigenvalues = torch.linalg.eigvals(stored.matrix.double()).abs()
    moduli = eigenvalues.sort(-1, descending=True).values[:, 1]
    found = our_second(q[chosen], k[chosen], scale).double()
    error = float((found - moduli).abs().max())
    count = len(moduli)
    rows.append(
        Row(SECOND, "ours, stored before", count, 1_024, origin, seconds, "", error)
    )
    for row in rows:
        print(_line(row), flush=True)
    return rows


def _line(row):
    def short(value):
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    return " | ".join(f"{short(value):<30}"[:30].rstrip() for value in astuple(row))


def _picture(rows, path):
    figure = Figure(figsize=(14, 8), layout="constrained")
    axes = figure.subplots(2, 3, sharex=True)
    for column, question in zip(axes.T, (RANK, SECOND, PRODUCT), strict=True):
        for method in dict.fromkeys(r.method for r in rows if r.question == question):
            chosen = [
                r
                for r in rows
                if (r.question, r.method, r.heads) == (question, method, 1)
            ]
            for axis, name in zip(column, ("cpu_seconds", "mib"), strict=True):
                points = [(r.tokens, getattr(r, name)) for r in chosen]
                points = [p for p in points if p[1] and p[1] > 0]
                if points:
                    axis.loglog(*zip(*points, strict=True), marker="o", label=method)
                axis.set_ylabel(
                    "seconds" if name == "cpu_seconds" else "MiB above q, k"
                )
        column[0].set_title(question)
        column[0].legend(fontsize="small")
        column[1].set_xlabel("tokens")
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--largest", type=int, default=8_192)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("out/numerics"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    names = [field.name for field in fields(Row)]
    print(f"{options.threads} threads, torch {torch.__version__}")
    print(" | ".join(names))
    measured = _sizes(options.largest, options.threads, options.out)
    rows = _with_errors(measured) + _goals(options.threads)
    with (options.out / "numerics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(astuple(row) for row in rows)
    _picture(rows, options.out / "numerics.png")
    print("wrote", options.out / "numerics.csv", "and", options.out / "numerics.png")


if __name__ == "__main__":
    main()
