"""Products, TokenRank and lambda_2 on a GPU against what the same card can do.

    python benchmarks/numerics_gpu.py [--largest 1048576] [--device cuda]

Prints one table and writes it (CSV) line by line; what fails is a line that says why.
Rates are shares of ceilings measured on the same card in the same run: a matrix product
in the same precision (flop/s) and base-2 exponentials (1/s). Chains are random
clustered heads, d = 64. `--device cpu --largest 1024` tries the script out.
"""

import argparse
import csv
import time
from contextlib import contextmanager
from pathlib import Path

import torch
from numerics_chains import random_heads

from attnchain.errors import ChainError
from attnchain.markov import second_eigenvalue, stationary
from attnchain.operators import AttentionTransition, Damped

SIZES = (1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576)
WIDTH = 64
SCALE = WIDTH**-0.5
REPEATS = 3
COLUMNS = ("tokens", "what", "seconds", "of flop/s", "of exp2/s", "note")


class Bench:
    """Times work on one device and writes the rows of the table."""

    def __init__(self, device: str, path: Path) -> None:
        self.device, self.path = torch.device(device), path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        self._write(COLUMNS)

    @contextmanager
    def row(self, tokens, what):
        """A row that is written even where measuring it fails."""
        found = {}
        try:
            yield found
        except (ChainError, RuntimeError) as error:
            found = {"note": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
        shares = [f"{share:.2f}" for share in found.get("shares", ())] or ["", ""]
        seconds = f"{found['seconds']:.4g}" if "seconds" in found else ""
        self._write((tokens, what, seconds, *shares, found.get("note", "")))

    def time(self, function, repeats=REPEATS):
        """Best seconds of some runs, after one that is not counted."""
        function()
        best = float("inf")
        for _ in range(repeats):
            self._wait()
            start = time.perf_counter()
            function()
            self._wait()
            best = min(best, time.perf_counter() - start)
        return best

    def _write(self, row):
        print(" | ".join(map(str, row)), flush=True)
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow(row)

    def once(self, function):
        """Seconds and result of a single run; kernels are compiled by then."""
        self._wait()
        start = time.perf_counter()
        result = function()
        self._wait()
        return time.perf_counter() - start, result

    def _wait(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def ceilings(bench):
    """What the card reaches: flop/s by precision, exponentials/s."""
    cuda = bench.device.type == "cuda"
    size, side = (2**28, 8_192) if cuda else (2**22, 512)
    numbers = torch.rand(size, device=bench.device)
    out = torch.empty_like(numbers)
    found = {"exp2": size / bench.time(lambda: torch.exp2(numbers, out=out))}
    for dtype in (torch.float16, torch.float32, torch.float64):
        square = torch.rand(side, side, device=bench.device).to(dtype)
        seconds = bench.time(lambda square=square: square @ square)
        found[dtype] = 2 * side**3 / seconds
    for name, rate in found.items():
        print(f"ceiling, {name}: {rate:.3g}/s")
    return found


def heads(n, dtype, device):
    q, k = random_heads(1, n)
    return (part[0].to(device=device, dtype=dtype) for part in (q, k))


def products(bench, n, rates):
    """Pushes in half, single and double precision, against fused attention."""
    attend = torch.nn.functional.scaled_dot_product_attention
    q, k = (x[None, None] for x in heads(n, torch.float16, bench.device))
    with bench.row(n, "fused attention, float16") as row:
        row["seconds"] = bench.time(lambda: attend(q, k, k, scale=SCALE))
    fused = row.get("seconds", float("nan"))
    backend = "triton" if bench.device.type == "cuda" else "tiled"
    for dtype in (torch.float16, torch.float32, torch.float64):
        q, k = heads(n, dtype, bench.device)
        chain = AttentionTransition(q, k, scale=SCALE, backend=backend)
        for columns in (1, 64) if dtype != torch.float64 else (1,):
            with bench.row(n, f"push, {str(dtype)[6:]}, {columns} vector(s)") as row:
                v = torch.rand(columns, n, device=bench.device, dtype=chain.dtype)
                seconds = bench.time(lambda v=v, chain=chain: chain.push(v))
                row["seconds"] = seconds
                flops = 2 * n * n * (WIDTH + columns) / seconds
                row["shares"] = flops / rates[dtype], n * n / seconds / rates["exp2"]
                row["note"] = f"{seconds / fused:.2f} x fused attention, float16"


def questions(bench, n):
    """TokenRank and lambda_2 of one head given in half precision."""
    q, k = heads(n, torch.float16, bench.device)
    chain = AttentionTransition(q, k, scale=SCALE)
    cuda = bench.device.type == "cuda"
    for damping in (0.85, 0.99):
        with bench.row(n, f"TokenRank, damping {damping}") as row:
            if cuda:
                torch.cuda.reset_peak_memory_stats()
            seconds, result = bench.once(lambda d=damping: stationary(Damped(chain, d)))
            peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else 0
            row["seconds"] = seconds
            row["note"] = (
                f"{int(result.products)} products, error <= {result.error_bound:.1g}"
                + (f", peak {peak:.0f} MiB" if cuda else "")
            )
    with bench.row(n, "lambda_2") as row:
        row["seconds"], found = bench.once(lambda: second_eigenvalue(chain))
        row["note"] = f"{int(found.products)} products"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--largest", type=int, default=SIZES[-1])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("out/numerics"))
    options = parser.parse_args()
    path = options.out / "numerics-gpu.csv"
    bench = Bench(options.device, path)
    if bench.device.type == "cuda":
        print(torch.cuda.get_device_name(bench.device), torch.__version__)
    rates = ceilings(bench)
    with torch.no_grad():
        for n in (n for n in SIZES if n <= options.largest):
            products(bench, n, rates)
            questions(bench, n)
    print("wrote", path)


if __name__ == "__main__":
    main()
