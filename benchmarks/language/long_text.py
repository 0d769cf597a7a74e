"""8,192 tokens of the chat model: how long every head's lambda_2 and TokenRank take.

Run: `python benchmarks/language/long_text.py [--tokens 8192]`; writes long_text.json
and long_text.md beside itself. The text is Python's own language reference
(`pydoc_data.topics`), cut at the given number of tokens. The first token is left out of
the chains, as `read_text` does, and ranks are damped by .85. No matrix is formed.
`--check` compares a text of 512 tokens with dense float64 instead of writing.
"""

import argparse
import json
import resource
import time
from pathlib import Path
from pydoc_data.topics import topics

import torch

from attnchain.capturing import capture
from attnchain.markov import second_eigenvalue
from attnchain.models import load
from attnchain.ranking import token_rank
from attnchain.readouts import received

HERE = Path(__file__).with_suffix("")
DAMPING = 0.85


def peak():
    """Most memory of the process so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def timed(lines, name, function):
    """What a function returns; its seconds, also of the CPU, and memory are noted."""
    start, worked = time.perf_counter(), time.process_time()
    found = function()
    lines[name] = {
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(time.process_time() - worked, 1),
        "peak_gib": round(peak(), 2),
    }
    print(name, lines[name], flush=True)
    return found


def captured(model, ids):
    """One chain for each layer, without the first token."""
    with torch.no_grad(), capture(model) as attention:
        model(input_ids=ids, use_cache=False, logits_to_keep=1)
    return [record.transition()[0].restrict(slice(1, None)) for record in attention]


def checked(model, ids):
    """Largest difference to dense float64 of lambda_2 and of TokenRank."""
    worst = {"lambda_2": 0.0, "TokenRank": 0.0}
    for layer in captured(model, ids):
        dense = layer.to_dense().double()
        dense = dense / dense.sum(-1, keepdim=True)
        moduli = torch.linalg.eigvals(dense).abs().sort(-1).values[..., -2]
        own = second_eigenvalue(layer).modulus.double()
        worst["lambda_2"] = max(worst["lambda_2"], float((own - moduli).abs().max()))
        n = dense.shape[-1]
        system = torch.eye(n) - DAMPING * dense.mT
        jump = torch.full((n, 1), (1 - DAMPING) / n, dtype=torch.float64)
        exact = torch.linalg.solve(system, jump)[..., 0]
        rank = token_rank(layer, damping=DAMPING).distribution.double()
        worst["TokenRank"] = max(
            worst["TokenRank"], float((rank - exact).abs().sum(-1).max())
        )
    return worst


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    loaded, lines = load("smollm2-135m-instruct"), {}
    text = "\n\n".join(topics[name] for name in sorted(topics))
    ids = loaded.tokenizer(text, return_tensors="pt", verbose=False)["input_ids"]
    n = 512 if given.check else given.tokens
    if given.check:
        print(checked(loaded.model, ids[:, :n]))
        return
    timed(lines, "weights and text", lambda: None)
    chains = timed(lines, "capture", lambda: captured(loaded.model, ids[:, :n]))
    values = timed(
        lines, "lambda_2", lambda: [second_eigenvalue(c).modulus for c in chains]
    )
    timed(lines, "mean attention received", lambda: [received(c) for c in chains])
    ranks = timed(
        lines, "TokenRank", lambda: [token_rank(c, damping=DAMPING) for c in chains]
    )
    moduli = torch.stack(values).double()
    table = {
        "tokens": n,
        "threads": torch.get_num_threads(),
        "heads": moduli.numel(),
        "stages": lines,
        "lambda_2": {
            "min": float(moduli.min()),
            "median": float(moduli.median()),
            "max": float(moduli.max()),
        },
        "largest_error_bound": max(float(r.error_bound.max()) for r in ranks),
        "products": sum(int(r.products.sum()) for r in ranks),
    }
    HERE.with_suffix(".json").write_text(json.dumps(table, indent=1) + "\n")
    HERE.with_suffix(".md").write_text(markdown(table))


def markdown(table):
    """The stages as a table."""
    lines = [
        f"{table['tokens']:,} tokens, {table['heads']} heads, "
        f"{table['threads']} thread(s).",
        "",
        "| stage | seconds | of them CPU | peak memory of the process so far, GiB |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {stage['seconds']:.1f} | {stage['cpu_seconds']:.1f} | "
        f"{stage['peak_gib']:.2f} |"
        for name, stage in table["stages"].items()
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
