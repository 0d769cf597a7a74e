"""Products, TokenRank and lambda_2 on a GPU against what the same card can do.

    python benchmarks/numerics_gpu.py [--largest 1048576] [--device cuda]

Prints one table and writes it (CSV). Rates are shares of ceilings measured on the same
card in the same run: a copy (bytes/s), a matrix product in half precision and in
float64 (flop/s), base-2 exponentials (1/s). Chains are random clustered heads, d = 64,
half precision where it says so. `--device cpu --largest 1024` tries the script out.
"""

import argparse
import csv
import time
from pathlib import Path

import torch
from numerics_chains import random_heads

from attnchain.markov import second_eigenvalue, stationary
from attnchain.operators import AttentionTransition, Damped

SIZES = (1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576)
WIDTH = 64
SCALE = WIDTH**-0.5
REPEATS = 3
COLUMNS = ("tokens", "what", "seconds", "of flop/s", "of exp2/s", "note")


class Bench:
    """Times work on one device and keeps the rows of the table."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self.rows = []

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

    def add(self, tokens, what, seconds, *, shares=("", ""), note=""):
        shown = [share if share == "" else f"{share:.2f}" for share in shares]
        self.rows.append((tokens, what, f"{seconds:.4g}", *shown, note))
        print(" | ".join(map(str, self.rows[-1])), flush=True)

    def _wait(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def ceilings(bench):
    """What the card reaches: bytes/s, half and double flop/s, exponentials/s."""
    cuda = bench.device.type == "cuda"
    size, side = (2**28, 8_192) if cuda else (2**22, 512)
    numbers = torch.rand(size, device=bench.device)
    out = torch.empty_like(numbers)
    copied = 8 * size / bench.time(lambda: out.copy_(numbers))
    raised = size / bench.time(lambda: torch.exp2(numbers, out=out))
    found = {"copy": copied, "exp2": raised}
    for name, dtype in (("half", torch.float16), ("double", torch.float64)):
        square = torch.rand(side, side, device=bench.device).to(dtype)
        seconds = bench.time(lambda square=square: square @ square)
        found[name] = 2 * side**3 / seconds
    for name, rate in found.items():
        print(f"ceiling {name}: {rate:.3g}/s")
    return found


def heads(n, dtype, device):
    q, k = random_heads(1, n)
    return (part[0].to(device=device, dtype=dtype) for part in (q, k))


def fused_attention(bench, n, dtype):
    """One forward pass of torch's fused attention of the same shape."""
    q, k = heads(n, dtype, bench.device)
    q, k = q[None, None], k[None, None]
    attend = torch.nn.functional.scaled_dot_product_attention
    return bench.time(lambda: attend(q, k, k, scale=SCALE))


def products(bench, n, rates):
    """Pushes in half, single and double precision, against fused attention."""
    half = fused_attention(bench, n, torch.float16)
    bench.add(n, "fused attention, float16", half)
    backend = "triton" if bench.device.type == "cuda" else "tiled"
    for dtype in (torch.float16, torch.float32, torch.float64):
        if dtype == torch.float64 and n > 262_144:
            continue
        q, k = heads(n, dtype, bench.device)
        chain = AttentionTransition(q, k, scale=SCALE, backend=backend)
        for columns in (1, 64) if dtype != torch.float64 else (1,):
            v = torch.rand(columns, n, device=bench.device, dtype=chain.dtype)
            seconds = bench.time(lambda v=v, chain=chain: chain.push(v))
            name = f"push, {str(dtype)[6:]}, {columns} vector(s)"
            ratio = f"{seconds / half:.2f} x fused attention, float16"
            ceiling = rates["double" if dtype == torch.float64 else "half"]
            flops = 2 * n * n * (WIDTH + columns) / seconds
            shares = (flops / ceiling, n * n / seconds / rates["exp2"])
            bench.add(n, name, seconds, shares=shares, note=ratio)


def questions(bench, n):
    """TokenRank and lambda_2 of one head given in half precision."""
    q, k = heads(n, torch.float16, bench.device)
    chain = AttentionTransition(q, k, scale=SCALE)
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for damping in (0.85, 0.99):
        found = []

        def rank(damping=damping, found=found):
            found[:] = [stationary(Damped(chain, damping))]

        seconds = bench.time(rank, repeats=1)
        result = found[0]
        note = f"{int(result.products)} products, error <= {result.error_bound:.1g}"
        bench.add(n, f"TokenRank, damping {damping}", seconds, note=note)
    seconds = bench.time(lambda: second_eigenvalue(chain), repeats=1)
    bench.add(n, "lambda_2", seconds)
    if bench.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
        print(f"peak memory at n = {n}: {peak:.0f} MiB")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--largest", type=int, default=SIZES[-1])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("out/numerics"))
    options = parser.parse_args()
    bench = Bench(options.device)
    print(" | ".join(COLUMNS))
    if bench.device.type == "cuda":
        print(torch.cuda.get_device_name(bench.device), torch.__version__)
    rates = ceilings(bench)
    with torch.no_grad():
        for n in (n for n in SIZES if n <= options.largest):
            products(bench, n, rates)
            questions(bench, n)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "numerics-gpu.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(bench.rows)
    print("wrote", path)


if __name__ == "__main__":
    main()
