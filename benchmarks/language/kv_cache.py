"""A chat model's text with part of its cache: nats a token, by what is kept.

Run: `python benchmarks/language/kv_cache.py [--texts 24]`; writes kv_cache.json and
kv_cache.md beside itself. Texts are entries of Python's own language reference
(`pydoc_data.topics`), the first PREFIX tokens of each read whole; then every key head
keeps a share of their keys and values, and the next TOKENS are scored. What is dropped
is masked for later queries only, which is what evicting it after prefill does;
positions stay. The prefix is read once. Scores are made of attention inside the prefix,
averaged over the query heads that share a key head (TOVA: over all heads of the layer).
No method was tuned on these texts or others. What kv_cache.json holds already is not
computed again.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import torch
from scipy.stats import t as student
from torch.nn.functional import cross_entropy, pad
from transformers import DynamicCache

from attnchain.capturing import capture, replaced_attention
from attnchain.models import load
from attnchain.ranking import token_rank

PREFIX, TOKENS, FIRST, WINDOW, SNAP = 192, 64, 4, 32, 8
KEEPS = (0.5, 0.25, 0.1)
DEPTHS = {"all": range(30), "0-9": range(10), "10-19": range(10, 20)}
DEPTHS["20-29"] = range(20, 30)
HERE = Path(__file__).with_suffix("")


def scores(records, generator):
    """By method, (layers, key heads, PREFIX): larger is kept first."""
    heads = torch.stack([record.probabilities()[0] for record in records]).double()
    layers, count, n, _ = heads.shape
    grouped = heads.view(layers, 3, count // 3, n, n)
    sums = grouped.sum(-2).mean(2)
    drop = slice(1, None)
    ranks = [
        token_rank(record.transition()[0].restrict(drop), damping=0.85).distribution
        for record in records
    ]
    rank = torch.stack(ranks).view(layers, 3, count // 3, n - 1).mean(2)
    rank = pad(rank, (1, 0))
    noise = torch.rand(sums.shape, generator=generator, dtype=torch.float64)
    keys = torch.stack([record.k[0] for record in records]).double().norm(dim=-1)
    keys = keys[:, :: count // 3] if keys.shape[1] == count else keys
    recent = torch.arange(n).double().expand_as(sums)
    window, snap = (grouped[..., -w:, :].sum(-2).mean(2) for w in (WINDOW, SNAP))
    pooled = torch.nn.functional.avg_pool1d(snap[..., :-SNAP], 5, 1, 2)
    last = heads[:, :, -1].mean(1, keepdim=True).expand_as(sums)
    plain = {"random": noise, "column sum": sums, "TokenRank": rank}
    more = {
        "recent": recent,
        "mean received": sums / torch.arange(n, 0, -1),
        f"last {WINDOW} queries": window,
        "small key norm": -keys,
        f"SnapKV, {SNAP} queries": pad(pooled, (0, SNAP), value=torch.inf),
        "TOVA": pad(last[..., :-1], (0, 1), value=torch.inf),
    }
    first = recent < FIRST
    kept = {
        f"first {FIRST} + {name}": value.masked_fill(first, torch.inf)
        for name, value in (plain | more).items()
    }
    return {"random": noise, "column sum": sums} | kept


def loss(model, ids, masks, prefix):
    """Nats of each of the last TOKENS, with keys of the prefix masked by layer."""
    calls = iter(range(len(masks)))
    after = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()

    def attend(query, key, value, scale=None, **_):
        group = query.shape[1] // 3
        kept = masks[next(calls)].repeat_interleave(group, 0)
        seen = torch.cat(
            [
                part.expand(query.shape[1], TOKENS, -1)
                for part in (kept[:, None], after)
            ],
            -1,
        )
        if key.shape[1] != query.shape[1]:
            key, value = (x.repeat_interleave(group, 1) for x in (key, value))
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=seen[None], scale=scale
        )

    cache = prefix.past_key_values
    with torch.no_grad(), replaced_attention(model, attend):
        later = model(input_ids=ids[:, PREFIX:], past_key_values=cache).logits[0, :-1]
    cache.crop(-TOKENS)
    logits = torch.cat([prefix.logits[0, -1:], later])
    return cross_entropy(logits, ids[0, PREFIX:]).item()


def masks_of(score, keep, layers):
    """Which keys of the prefix each layer and key head keeps."""
    kept = torch.zeros(score.shape, dtype=torch.bool)
    best = score.topk(round(keep * PREFIX), dim=-1).indices
    kept.scatter_(-1, best, value=True)
    whole = torch.tensor([layer not in layers for layer in range(len(score))])
    return kept | whole[:, None, None]


def of_text(model, ids, generator, losses):
    """Adds the loss by method, share and depth, and with the whole cache."""
    cache = DynamicCache(config=model.config)
    with torch.no_grad(), capture(model) as attention:
        prefix = model(input_ids=ids[:, :PREFIX], past_key_values=cache)
    found = scores(attention.records, generator)
    whole = torch.ones_like(found["random"], dtype=torch.bool)
    masks = {"whole cache": lambda: whole}
    for name, score in found.items():
        cuts = [(keep, "all") for keep in KEEPS]
        if name.startswith("first"):
            cuts += [(0.25, depth) for depth in DEPTHS if depth != "all"]
        for keep, depth in cuts:
            masks[f"{name}|{keep}|{depth}"] = partial(
                masks_of, score, keep, DEPTHS[depth]
            )
    for key, make in masks.items():
        if key not in losses:
            losses[key] = loss(model, ids, make(), prefix)
    whole_again = loss(model, ids, whole, prefix)
    assert abs(losses["whole cache"] - whole_again) < 1e-3, (losses, whole_again)
    return losses


def interval(values):
    """Mean and half width of a 95 % interval over texts."""
    half = student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1)
    return float(np.mean(values)), float(half / len(values) ** 0.5)


def table(runs):
    """Markdown: what each choice loses, and that beside the column sum, paired."""
    base = np.array([run["whole cache"] for run in runs])
    lines = [
        f"With the whole cache {base.mean():.3f} nats a token ({len(runs)} texts). "
        "Nats more than that, mean and half a 95 % interval; then the paired "
        f"difference to `first {FIRST} + column sum` at the same share and depth "
        "(below 0: better), on the same texts.",
        "",
        "| kept by | share kept | layers | texts | nats more | against column sum |",
        "|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(name for run in runs for name in run if "|" in name):
        method, keep, depth = name.split("|")
        rival = f"first {FIRST} + column sum|{keep}|{depth}"
        found = [run for run in runs if name in run]
        own = np.array([run[name] for run in found])
        more = interval(own - [run["whole cache"] for run in found])
        apart = interval(own - [run[rival] for run in found])
        lines.append(
            f"| {method} | {keep} | {depth} | {len(found)} | {more[0]:.3f} ± "
            f"{more[1]:.3f} | {apart[0]:+.3f} ± {apart[1]:.3f} |"
        )
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=24)
    wanted = parser.parse_args().texts
    loaded, runs = load("smollm2-135m-instruct"), []
    file = HERE.with_suffix(".json")
    known = json.loads(file.read_text()) if file.exists() else []
    generator = torch.Generator().manual_seed(0)
    for name in sorted(topics):
        ids = loaded.tokenizer(topics[name], return_tensors="pt")["input_ids"]
        if ids.shape[1] < PREFIX + TOKENS or len(runs) == wanted:
            continue
        losses = known[len(runs)] if len(runs) < len(known) else {}
        ids = ids[:, : PREFIX + TOKENS]
        runs.append(of_text(loaded.model, ids, generator, losses))
        print(len(runs), name, flush=True)
        every = runs + known[len(runs) :]
        file.write_text(json.dumps(every, indent=1) + "\n")
        if len(every) > 1:
            HERE.with_suffix(".md").write_text(table(every))


if __name__ == "__main__":
    main()
