"""Which of the ten highest patches are certain, and whether that certainty is worth it.

Attention weights of the packaged model are drawn around themselves. Beside the share of
draws in which a patch stays among the ten stands whether it does so when the picture is
disturbed (pixel noise, JPEG, mirrored), and how well the plain margin tells the same.
"""

import io
import json
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from attnchain import as_transition, mix, token_rank
from attnchain.markov import second_eigenvalue
from attnchain.methods import (
    DirichletWeights,
    LogNormalWeights,
    RandomTransition,
    WeibullWeights,
)
from attnchain.models import load, read_picture
from attnchain.vision import DEFAULT_LAYERS, read_attention

EXAMPLES = Path(__file__).parents[2] / "examples"
SIZE, DRAWS, TOP, CERTAIN = 224, 100, 10, 0.95
FAMILIES = {
    "Weibull, k 5": lambda _: WeibullWeights(5.0),
    "Weibull, k 20": lambda _: WeibullWeights(20.0),
    "log-normal, .23": lambda _: LogNormalWeights(0.23),
    "Dirichlet, c 19 n": lambda n: DirichletWeights(19.0 * n),
}


def noisy(picture):
    pixels = np.asarray(picture, dtype=np.float64)
    pixels = pixels + np.random.default_rng(0).normal(0, 12, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))


def squeezed(picture):
    kept = io.BytesIO()
    picture.save(kept, "JPEG", quality=30)
    return Image.open(kept).convert("RGB")


DISTURBED = {"noise": noisy, "JPEG": squeezed, "mirrored": ImageOps.mirror}


class Ranker:
    """TokenRank of one picture's patches, and of drawn chains around its heads."""

    def __init__(self, picture, model):
        attention = read_attention(picture, model, layers=DEFAULT_LAYERS, size=SIZE)
        dense = torch.cat([layer.to_dense() for layer in attention.heads])
        self.attention, self.heads = attention, as_transition(dense)
        moduli = second_eigenvalue(self.heads).modulus
        self.weights = moduli / moduli.sum()

    def __call__(self, heads):
        return token_rank(mix(heads, self.weights)).distribution

    def drawn(self, family, seed):
        generator = torch.Generator().manual_seed(seed)
        random = RandomTransition(self.heads, family)
        return random.ask(self, draws=DRAWS, generator=generator)


def undone(kind, ranker):
    """The rank of a disturbed picture, patch by patch of the undisturbed one."""
    grid = ranker.attention.grid
    shares = grid.to_map(ranker(ranker.heads))
    return (shares.flip(1) if kind == "mirrored" else shares).flatten()


def one_picture(file, model, seed):
    picture = read_picture(file)
    ranker = Ranker(picture, model)
    own = ranker(ranker.heads)
    order = own.argsort(descending=True)
    top = order[:TOP]
    disturbed = {
        kind: undone(kind, Ranker(change(picture), model))
        for kind, change in DISTURBED.items()
    }
    found = {
        "margin": (own[top] / own[order[TOP]]).log().tolist(),
        "stays": {
            kind: torch.isin(top, other.topk(TOP).indices).tolist()
            for kind, other in disturbed.items()
        },
        "families": {},
    }
    for name, family in FAMILIES.items():
        draws = ranker.drawn(family(len(own)), seed)
        low, high = draws.interval()
        found["families"][name] = {
            "share": draws.among_top(TOP)[top].tolist(),
            "half width": float(((high - low) / 2 / own)[top].mean()),
            "bias": float((draws.bias / own)[top].mean()),
            "covered": {
                kind: float(((low <= other) & (other <= high))[top].double().mean())
                for kind, other in disturbed.items()
            },
        }
    return found


def ranks(folder, count, kept):
    model = load()
    found = []
    for seed, file in enumerate(sorted((folder / "images").glob("*.png"))[:count]):
        record = kept / f"rank-{file.stem}.json"
        if not record.exists():
            record.write_text(json.dumps(one_picture(file, model, seed)))
            print(file.stem, flush=True)
        found.append(json.loads(record.read_text()))
    return found


def area(scores, stays):
    """Probability that a patch that stays has the higher score (ties: one half)."""
    scores, stays = np.asarray(scores), np.asarray(stays)
    gap = scores[stays][:, None] - scores[~stays][None]
    return float(((gap > 0) + (gap == 0) / 2).mean())


def pooled(records, family):
    """Share, margin and whether it stays, of all patches, pictures and kinds."""
    rows = [
        (share, margin, stay)
        for record in records
        for stays in record["stays"].values()
        for share, margin, stay in zip(
            record["families"][family]["share"], record["margin"], stays, strict=True
        )
    ]
    share, margin, stays = zip(*rows, strict=True)
    return np.array(share), np.array(margin), np.array(stays)


def tells(records, family, rounds=1000):
    """Areas of share and margin, and the 95 % interval of their difference."""
    share, margin, stays = pooled(records, family)
    found = {"share": area(share, stays), "margin": area(margin, stays)}
    random, gaps = np.random.default_rng(0), []
    for _ in range(rounds):
        chosen = [records[i] for i in random.integers(len(records), size=len(records))]
        one, other, stay = pooled(chosen, family)
        gaps.append(area(one, stay) - area(other, stay))
    return found, np.quantile(gaps, [0.025, 0.975])


def rank_table(records):
    titles = (
        "weights",
        "half width of the 95 % interval",
        "bias",
        "share of draws in the ten",
        f"certain (share >= {CERTAIN}), of ten",
        "certain stay when disturbed",
        "others stay",
        "disturbed value in the interval",
        "AUC of the share",
        "AUC of the margin",
        "difference",
    )
    lines = [
        f"TokenRank, {len(records)} pictures, {DRAWS} draws; the ten highest patches.",
        "",
        f"| {' | '.join(titles)} |",
        "|---" * len(titles) + "|",
    ]
    for name in FAMILIES:
        families = [record["families"][name] for record in records]
        share, _, stays = pooled(records, name)
        sure = share >= CERTAIN
        areas, (low, high) = tells(records, name)
        mean = {
            key: np.mean([one[key] for one in families])
            for key in ("half width", "bias", "share")
        }
        covered = np.mean([list(one["covered"].values()) for one in families])
        lines.append(
            f"| {name} | {mean['half width']:.1%} | {mean['bias']:+.2%} "
            f"| {mean['share']:.3f} | {10 * sure.mean():.1f} "
            f"| {_told(stays[sure])} | {_told(stays[~sure])} | {covered:.3f} "
            f"| {areas['share']:.3f} | {areas['margin']:.3f} "
            f"| {low:+.3f} to {high:+.3f} |"
        )
    return "\n".join(lines) + "\n"


def _told(stays):
    return f"{stays.mean():.3f}" if len(stays) else "none"


def draw_certainty(ax, file, model):
    """The ten highest patches, by how often each stays among the ten."""
    picture = read_picture(file)
    ranker = Ranker(picture, model)
    draws = ranker.drawn(WeibullWeights(5.0), 0)
    share = draws.among_top(TOP)
    top = draws.own.topk(TOP).indices
    x, y = zip(*(ranker.attention.patch_centre(int(i)) for i in top), strict=True)
    ax.imshow(picture)
    ax.set(xticks=[], yticks=[])
    certain = int((share[top] >= CERTAIN).sum())
    ax.set_title(f"{file.stem}: {certain} of ten certain", fontsize=9)
    return ax.scatter(
        x, y, c=share[top], vmin=0.5, vmax=1, s=70, cmap="viridis", edgecolors="white"
    )


def picture(rows, keys, file):
    figure = Figure(figsize=(12, 6.6), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1, 1.6))
    names = [name for name in rows if name != "soft"]
    for ax, key in zip(above.subplots(1, 3, sharey=True), keys, strict=True):
        for place, name in enumerate(names):
            cell = rows[name][key]
            ax.errorbar(
                cell["over soft"], place, xerr=cell["half width"], fmt="o", color="C0"
            )
        ax.axvline(0, color="grey", lw=1)
        ax.set_yticks(range(len(names)), names, fontsize=8)
        ax.set_xlabel(f"{key} over soft attention", fontsize=9)
        ax.invert_yaxis()
    model = load()
    axes = below.subplots(1, 3)
    for ax, stem in zip(axes, ("astronaut", "chelsea", "coffee"), strict=True):
        shown = draw_certainty(ax, EXAMPLES / f"{stem}.png", model)
    below.colorbar(shown, ax=axes, label="share of draws among the ten")
    figure.savefig(file, dpi=80)
