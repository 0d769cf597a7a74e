"""Relevance against deletion: sentences, pictures, and the sounds of words.

Tokens are left out, most relevant first or least relevant first, and the cosine of the
embedding to that of the whole is followed: its area should be small the one way round
and large the other. Sentences: a mean-pooled sentence encoder. Pictures: the class
token of DINOv2-S, whose patches are left out of the sequence.

    python benchmarks/methods/relevance.py --data ../shared/data

Writes OUT/relevance.md, .json and .png; each part is kept in OUT as it ends. About 15
minutes on one idle core. The part on speech needs `pip install espeakng-loader`.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import relevance_sound
import torch
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import average_precision_score

from attnchain import capture, mix, token_rank
from attnchain.methods import relevance, residual_shares
from attnchain.models import load, read_picture

REMOVED_TOKENS = tuple(i / 10 for i in range(11))
REMOVED_PATCHES = (0, 0.25, 0.5, 0.75, 0.9, 1)
SIZE = 224
PAIRS = (
    ("Chefer", "rollout"),
    ("weighted, gradient (reconstruction)", "Chefer"),
    ("weighted, gradient, rows normalised", "Chefer"),
    ("weighted rollout (no gradient)", "rollout"),
    ("TokenRank", "Chefer"),
)
EXAMPLE = Path(__file__).parents[2] / "examples" / "astronaut.png"
HEARD = ("peak", "share", "share of speech", "chance", "right")
HEARD_PAIRS = (
    ("rollout", "cross-attention, mean of layers"),
    ("Chefer", "cross-attention, last layer"),
    ("weighted, gradient (reconstruction)", "Chefer"),
    ("weighted, gradient (reconstruction)", "cross-attention, last layer"),
    ("weighted, gradient, rows normalised", "Chefer"),
)


def scores(attention, score, shares, start, seed):
    """Relevance of every token by every method, one row each."""
    last = attention.matching(layers=-1)[0].probabilities()[0].mean(0)
    chains = attention.select()

    def of(**options):
        return relevance(attention, **options).of(start)[0].detach()

    rank = token_rank(mix(chains, "uniform")).distribution
    generator = torch.Generator().manual_seed(seed)
    return {
        "raw attention, last layer": start.to(last) @ last,
        "rollout": of(weights=0.5),
        "Chefer": of(gradient=score),
        "weighted, gradient (reconstruction)": of(gradient=score, weights=shares),
        "weighted, gradient, rows normalised": of(
            gradient=score, weights=shares, normalize=True
        ),
        "weighted rollout (no gradient)": of(weights=shares),
        "TokenRank": rank.reshape(-1).float(),
        "random": torch.rand(len(last), generator=generator),
    }


def both_areas(found, follow, removed):
    """Area under the curve, most relevant first and least relevant first."""
    curves = {}
    for word, descending in (("positive", True), ("negative", False)):
        order = found.argsort(descending=descending, stable=True)
        curves[word] = follow(order)
    return {w: float(np.trapezoid(c, removed)) for w, c in curves.items()} | {
        f"{word} curve": curve for word, curve in curves.items()
    }


def sentences(data, count):
    """Every fifth review of either kind, of 12 to 30 words."""
    chosen = []
    for kind in ("pos", "neg"):
        text = (data / "rt-polarity" / f"rt-polarity.{kind}").read_text("latin-1")
        lines = [line.strip() for line in text.splitlines()[::5]]
        fitting = [line for line in lines if 12 <= len(line.split()) <= 30]
        chosen += fitting[: count // 2]
    return chosen


def embed(model, ids, mask):
    """Mean of the tokens' last hidden states."""
    states = model(input_ids=ids, attention_mask=mask).last_hidden_state
    return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def text_item(loaded, sentence, seed):
    tokens = loaded.tokens(sentence)["input_ids"][0]
    whole, n = torch.ones(1, len(tokens), dtype=torch.long), len(tokens) - 2
    patterns = {"stream": "encoder.layer.*", "branch": "*.attention.output.dense"}
    with (
        capture(loaded.model, gradients=True) as attention,
        residual_shares(loaded.model, **patterns) as shares,
    ):
        pooled = embed(loaded.model, tokens[None], whole)[0]
    direction = torch.nn.functional.normalize(pooled.detach(), dim=0)
    start = torch.full((len(tokens),), 1 / len(tokens))

    def follow(order):
        kept = [
            torch.cat([tokens[:1], tokens[1:-1][order[round(f * n) :].sort().values],
                       tokens[-1:]])
            for f in REMOVED_TOKENS
        ]  # fmt: skip
        ids = torch.nn.utils.rnn.pad_sequence(kept, batch_first=True)
        lengths = torch.tensor([len(k) for k in kept])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        with torch.no_grad():
            left = embed(loaded.model, ids, mask)
        return torch.nn.functional.cosine_similarity(left, direction[None]).tolist()

    found = scores(attention, pooled @ direction, shares, start, seed)
    areas = {
        name: both_areas(values[1:-1], follow, REMOVED_TOKENS)
        for name, values in found.items()
    }
    return {"areas": areas}


def picture_scores(model, picture, seed):
    """Pixels, the class token's direction, and relevance of all tokens by method."""
    pixels = model.pixels(picture, size=SIZE)
    patterns = {"stream": "encoder.layer.*", "branch": "*.layer_scale1"}
    with (
        capture(model.model, gradients=True) as attention,
        residual_shares(model.model, **patterns) as shares,
    ):
        state = model.model(pixels).last_hidden_state[0, 0]
    direction = torch.nn.functional.normalize(state.detach(), dim=0)
    start = torch.eye(model.grid(pixels).n_tokens)[0]
    return pixels, direction, scores(attention, state @ direction, shares, start, seed)


def picture_item(model, file, mask, seed):
    pixels, direction, found = picture_scores(model, read_picture(file), seed)
    grid, network = model.grid(pixels), model.model
    with torch.no_grad():
        embedded = network.embeddings(pixels)

    def left(order, fraction):
        kept = order[round(fraction * len(order)) :].sort().values + grid.prefix
        chosen = embedded[:, torch.cat([torch.arange(grid.prefix), kept])]
        with torch.no_grad():
            for layer in network.encoder.layer:
                out = layer(chosen)
                chosen = out[0] if isinstance(out, tuple) else out
            return network.layernorm(chosen)[0, 0]

    def follow(order):
        return [
            float(torch.nn.functional.cosine_similarity(left(order, f), direction, 0))
            for f in REMOVED_PATCHES
        ]

    size = (grid.columns, grid.rows)
    truth = np.array(Image.open(mask).resize(size, Image.Resampling.NEAREST)).ravel()
    known = truth != 128
    areas = {}
    for name, values in found.items():
        own = values[grid.prefix :]
        areas[name] = both_areas(own, follow, REMOVED_PATCHES)
        precision = average_precision_score(truth[known] == 255, own.numpy()[known])
        areas[name]["precision"] = float(precision)
    return {"areas": areas}


def half_width(values):
    return 1.96 * float(np.std(values, ddof=1)) / len(values) ** 0.5


def summary(items, words):
    """Mean and 95 % half width of each method, and of pairs of methods."""
    methods, pairs = {}, {}
    for name in items[0]["areas"]:
        own = {w: np.array([i["areas"][name][w] for i in items]) for w in words}
        methods[name] = {w: (float(v.mean()), half_width(v)) for w, v in own.items()}
    for one, other in PAIRS:
        gaps = {
            w: np.array([i["areas"][one][w] - i["areas"][other][w] for i in items])
            for w in words
        }
        pairs[f"{one} minus {other}"] = {
            w: (float(v.mean()), half_width(v)) for w, v in gaps.items()
        }
    return {"methods": methods, "pairs": pairs, "items": len(items)}


def heard(rows):
    """Means over sentences of each method and of pairs, with 95 % half widths."""
    by = {}
    for row in rows:
        by.setdefault(row["method"], {}).setdefault(row["sentence"], []).append(row)
    means = {
        name: {
            word: np.array([np.mean([r[word] for r in own]) for own in some.values()])
            for word in HEARD
        }
        for name, some in by.items()
    }
    pairs = {
        f"{one} minus {other}": {w: means[one][w] - means[other][w] for w in HEARD}
        for one, other in HEARD_PAIRS
    }
    table = {
        name: {w: (float(v.mean()), half_width(v)) for w, v in line.items()}
        for name, line in {**means, **pairs}.items()
    }
    return {"words": len(rows) // len(means), "methods": table}


def written(title, result, words):
    lines = [f"**{title}** ({result['items']})", ""]
    lines += ["| method | " + " | ".join(words) + " |", "|---" * (len(words) + 1) + "|"]
    for name, row in {**result["methods"], **result["pairs"]}.items():
        sign = "+" if " minus " in name else ""
        cells = [f"{row[w][0]:{sign}.3f} ± {row[w][1]:.3f}" for w in words]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def written_sound(result):
    words = ("peak", "share", "share of speech")
    chance, right = (
        result["methods"]["rollout"][word][0] for word in ("chance", "right")
    )
    lines = [
        f"**Whisper: which sounds made this word** ({result['words']} words, "
        f"{right:.0%} of them what the model would say)",
        "",
        "| method | peak inside the word | relevance there | of that on speech |",
        "|---|---|---|---|",
    ]
    for name, row in result["methods"].items():
        sign = "+" if " minus " in name else ""
        cells = [f"{row[w][0]:{sign}.3f} ± {row[w][1]:.3f}" for w in words]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, f"| chance, on speech | {chance:.3f} | | {chance:.3f} |"]


def draw(parts, file):
    figure = Figure(figsize=(13, 9.5), layout="constrained")
    rows = figure.subfigures(3, 1, height_ratios=(1.3, 0.55, 1))
    curves(parts, rows[0])
    pictures(rows[1])
    sounds(parts["sound"]["example"], rows[2])
    figure.savefig(file, dpi=120)


def curves(parts, figure):
    axes = figure.subplots(1, 2)
    for ax, part, removed in (
        (axes[0], "sentences", REMOVED_TOKENS),
        (axes[1], "pictures", REMOVED_PATCHES),
    ):
        for i, name in enumerate(parts[part]["curves"]):
            both = parts[part]["curves"][name]
            ax.plot(removed, both["positive curve"], color=f"C{i}", label=name)
            ax.plot(removed, both["negative curve"], color=f"C{i}", linestyle="--")
        ax.set(xlabel="share left out (solid: most relevant first)", ylabel="cosine")
        ax.set_title(part)
    axes[1].legend(fontsize=6, loc="lower left")


def pictures(figure):
    """Maps of a picture that may be shown; the brightest hundredth is cut off."""
    model, picture = load(), read_picture(EXAMPLE)
    pixels, _, found = picture_scores(model, picture, 0)
    grid = model.grid(pixels)
    del found["random"]
    axes = figure.subplots(1, len(found) + 1)
    axes[0].imshow(picture)
    axes[0].set_title("picture", fontsize=7)
    for ax, (name, values) in zip(axes[1:], found.items(), strict=True):
        patches = grid.to_map(values[grid.prefix :])
        ax.imshow(patches, vmax=float(patches.quantile(0.99)))
        ax.set_title(name.replace(", ", ",\n").replace(" (", "\n("), fontsize=7)
    for ax in axes:
        ax.axis("off")


def sounds(example, figure):
    chosen = (
        "cross-attention, last layer",
        "rollout",
        "Chefer",
        "weighted, gradient (reconstruction)",
    )
    axes = figure.subplots(1, len(chosen), sharey=True)
    for ax, name in zip(axes, chosen, strict=True):
        rows = np.array(example["maps"][name]).clip(0)
        rows = rows / rows.max(1, keepdims=True).clip(1e-30)
        width = rows.shape[1] * relevance_sound.FRAME
        ax.imshow(rows, aspect="auto", extent=(0, width, len(rows) - 0.5, -0.5))
        for i, (begin, end) in enumerate(example["spans"]):
            ax.plot([begin, end, end, begin, begin],
                    [i - 0.45, i - 0.45, i + 0.45, i + 0.45, i - 0.45],
                    color="white", linewidth=1)  # fmt: skip
        ax.set_title(name, fontsize=8)
        ax.set_xlabel("s")
    axes[0].set_yticks(range(len(example["words"])), example["words"], fontsize=7)


def mean_curves(items):
    """The mean curve of each method, both ways round."""
    return {
        name: {
            word: np.mean([i["areas"][name][word] for i in items], 0).tolist()
            for word in ("positive curve", "negative curve")
        }
        for name in items[0]["areas"]
    }


def part(name, args, make):
    """A part of the experiment, done once."""
    file = args.out / f"{name}.json"
    if not file.exists():
        file.write_text(json.dumps(make(args)))
    return json.loads(file.read_text())


def of_sentences(args):
    loaded = load("all-minilm-l6-v2")
    chosen = sentences(args.data, args.sentences)
    items = [text_item(loaded, s, seed) for seed, s in enumerate(chosen)]
    result = summary(items, ("positive", "negative"))
    return result | {"curves": mean_curves(items)}


def of_pictures(args):
    model, folder = load(), args.data / "grabcut"
    files = sorted((folder / "images").iterdir())[: args.pictures]
    items = []
    for seed, file in enumerate(files):
        mask = folder / "masks" / f"{file.stem}.png"
        items.append(picture_item(model, file, mask, seed))
        print(file.name, flush=True)
    result = summary(items, ("positive", "negative", "precision"))
    return result | {"curves": mean_curves(items)}


def of_sound(args):
    found = relevance_sound.experiment(args.spoken)
    return heard(found["rows"]) | {"example": found["example"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("out/relevance"))
    parser.add_argument("--sentences", type=int, default=60)
    parser.add_argument("--pictures", type=int, default=25)
    parser.add_argument("--spoken", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    parts = {
        "pictures": part("pictures", args, of_pictures),
        "sentences": part("sentences", args, of_sentences),
        "sound": part("sound", args, of_sound),
    }
    lines = written("Sentences", parts["sentences"], ("positive", "negative"))
    words = ("positive", "negative", "precision")
    lines += written("Pictures", parts["pictures"], words)
    lines += written_sound(parts["sound"])
    (args.out / "relevance.md").write_text("\n".join(lines) + "\n")
    kept = {
        name: {k: v for k, v in one.items() if k not in ("curves", "example")}
        for name, one in parts.items()
    }
    (args.out / "relevance.json").write_text(json.dumps(kept, indent=1))
    draw(parts, args.out / "relevance.png")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
