"""Semantic Equitable Clustering beside other partitions, on a real model and trained.

1. DINOv2-S at 224 px (256 patches): share of attention mass that stays inside 4 and 16
   equal groups, by layer, for SEC, windows, random groups, the first principal
   component of the keys, one cut along the slow mode, halving by it (`slow_groups`).
2. The same model with attention restricted to groups in some layers: cosine of its
   features to its own.
3. One layer's attention at 4,096 and 16,384 tokens: CPU time against fused attention.
4. A small vision transformer trained from scratch on Fashion-MNIST with each.

    python benchmarks/methods/sec.py --data ../shared/data

Pictures (the first of voc99) and trained networks are kept in OUT/runs as they end: a
killed benchmark goes on where it stopped. Writes OUT/sec.md, OUT/sec.json and
OUT/sec.png. About 40 minutes on one idle core. Groups of equal size throughout.
"""

import json
import sys
import time
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from kept import arguments, kept_run, mean_and_width, pictures_of
from matplotlib.figure import Figure
from PIL import Image
from sec_training import GROUPS, PATCHES, WAYS, trained
from torch.nn.functional import cosine_similarity, scaled_dot_product_attention

from attnchain.capturing import replaced_attention
from attnchain.markov import spectrum
from attnchain.methods import (
    equitable_groups,
    even_groups,
    grouped_attention,
    slow_groups,
)
from attnchain.models import load, read_picture
from attnchain.operators import AttentionTransition, Lazy, kept_mass
from attnchain.vision import read_attention

sys.path.insert(0, str(Path(__file__).parents[1] / "guidance"))
from data import load as load_fashion

SIZE, SIDE = 224, 16
COUNTS = (4, 16)
LAYERS = (0, 3, 7, 9, 10, 11)
RESTRICTED = {"layers 0-3": range(4), "layers 8-11": range(8, 12)}
MEASURED = ((4096, (4, 16, 64), 5), (16384, (4, 16, 64), 2))


def windows(count):
    """Square windows of the grid of patches."""
    across = round(count**0.5)
    place = torch.arange(SIDE) * across // SIDE
    return (place[:, None] * across + place).flatten()


def drawn_groups(chain, count, seed):
    generator = torch.Generator().manual_seed(seed)
    return even_groups(torch.rand(chain.shape[:-1], generator=generator), count)


def component(keys, count):
    centred = keys - keys.mean(-2, keepdim=True)
    leading = torch.linalg.svd(centred, full_matrices=False).Vh[..., :1, :]
    return even_groups((centred @ leading.mT)[..., 0], count)


def one_cut(chain, count):
    return even_groups(spectrum(Lazy(chain), 2, tolerance=1e-3).basis[..., 1], count)


NAMED = {
    "SEC": lambda chain, count, seed: equitable_groups(chain.k, count),
    "windows": lambda chain, count, seed: windows(count),
    "random": drawn_groups,
    "first component of keys": lambda chain, count, seed: component(chain.k, count),
    "slow mode, one cut": lambda chain, count, seed: one_cut(chain, count),
    "slow mode, halved (ours)": lambda chain, count, seed: slow_groups(chain, count),
}
IN_MODEL = ("SEC", "windows", "random", "slow mode, halved (ours)")


def square(file):
    """The picture's middle, as large as its shorter side."""
    picture = read_picture(file)
    side = min(picture.size)
    left, top = ((length - side) // 2 for length in picture.size)
    return picture.crop((left, top, left + side, top + side)).resize(
        (SIZE, SIZE), Image.Resampling.BICUBIC
    )


def kept_in(picture, model, seed):
    """Mean mass that stays, by layer, number of groups and partition."""
    attention = read_attention(picture, model, layers=LAYERS, size=SIZE)
    found = {}
    for layer, heads in zip(attention.layers, attention.heads, strict=True):
        for count in COUNTS:
            for name, groups in NAMED.items():
                labels = groups(heads, count, seed)
                kept = float(kept_mass(heads, labels).mean())
                found[f"{layer}|{count}|{name}"] = kept
    return found


def restricted(groups):
    """Attention of patches to their group and the class token; it sees and is seen."""

    def attend(query, key, value, *, scale=None):
        inside = (x[..., 1:, :] for x in (query, key))
        labels = groups(AttentionTransition(*inside, scale=scale))
        return grouped_attention(query, key, value, labels, prefix=1, scale=scale)

    return attend


def features_in(picture, model, seed):
    """Cosine of the patch features and of the class token to the model's own."""
    pixels = model.pixels(picture, size=SIZE)
    with torch.no_grad():
        exact = model.model(pixels).last_hidden_state[0]
    found = {}
    for where, count, name in product(RESTRICTED, COUNTS, IN_MODEL):
        attend = restricted(partial(NAMED[name], count=count, seed=seed))
        layers = RESTRICTED[where]
        with torch.no_grad(), replaced_attention(model.model, attend, layers=layers):
            changed = model.model(pixels).last_hidden_state[0]
        cosine = cosine_similarity(changed, exact, dim=-1)
        found[f"{where}|{count}|{name}"] = [
            float(cosine[1:].mean()),
            float(cosine[0]),
        ]
    return found


def speed(n, counts, rounds):
    """CPU time of SEC over fused attention, both of six heads; runs take turns.

    Medians of the ratios of each round, with the smallest and largest.
    """
    q, k, v = torch.randn(3, 1, 6, n, 64, generator=torch.Generator().manual_seed(0))
    ways = {"fused": partial(scaled_dot_product_attention, q, k, v)}
    for count in counts:
        ways[f"{count} groups"] = partial(sec_attention, q, k, v, count)
        ways[f"{count} groups, grouping alone"] = partial(equitable_groups, k, count)
    took = {name: [] for name in ways}
    with torch.no_grad():
        for _ in range(rounds + 1):
            for name, run in ways.items():
                begun = time.process_time()
                run()
                took[name].append(time.process_time() - begun)
    fused = np.array(took.pop("fused")[1:])
    ratios = {name: np.array(times[1:]) / fused for name, times in took.items()}
    spread = {
        name: [float(np.median(x)), float(x.min()), float(x.max())]
        for name, x in ratios.items()
    }
    return {"fused, CPU seconds": float(np.median(fused)), "ratios": spread}


def sec_attention(q, k, v, count):
    return grouped_attention(q, k, v, equitable_groups(k, count))


def summary(runs, keys):
    return {key: mean_and_width([run[key] for run in runs]) for key in keys}


def kept_table(kept):
    lines = ["| layer, groups | " + " | ".join(NAMED) + " | halved - windows |"]
    lines.append("|---" * (len(NAMED) + 2) + "|")
    for layer in LAYERS:
        for count in COUNTS:
            rows = np.array(
                [[run[f"{layer}|{count}|{name}"] for name in NAMED] for run in kept]
            )
            ahead, width = mean_and_width(rows[:, -1] - rows[:, 1])
            cells = " | ".join(f"{x:.3f}" for x in rows.mean(0))
            lines.append(
                f"| {layer}, {count} | {cells} | {ahead:+.3f} +- {width:.3f} |"
            )
    return "\n".join(lines)


def feature_table(features):
    lines = ["| restricted, groups | " + " | ".join(IN_MODEL) + " |"]
    lines.append("|---" * (len(IN_MODEL) + 1) + "|")
    for where in RESTRICTED:
        for count in COUNTS:
            cells = []
            for name in IN_MODEL:
                pairs = [run[f"{where}|{count}|{name}"] for run in features]
                (patch, token), _ = mean_and_width(pairs)
                cells.append(f"{patch:.3f} / {token:.3f}")
            lines.append(f"| {where}, {count} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def speed_table(times):
    lines = ["| tokens, groups | SEC / fused | of that, grouping | fused, CPU s |"]
    lines.append("|---|---|---|---|")
    for n, found in times.items():
        for name, (ratio, low, high) in found["ratios"].items():
            if "alone" in name:
                continue
            alone = found["ratios"][f"{name}, grouping alone"][0]
            lines.append(
                f"| {n}, {name} | {ratio:.3f} ({low:.3f} to {high:.3f}) | {alone:.3f} "
                f"| {found['fused, CPU seconds']:.2f} |"
            )
    return "\n".join(lines)


def accuracies(cells):
    """Accuracy of each way, and the paired difference to full attention."""
    right = {}
    for cell in cells:
        hit = np.zeros(10_000)
        hit[cell["right"]] = 1
        right.setdefault(cell["way"], []).append(hit)
    rows = []
    for way in WAYS:
        own, full = np.array(right[way]), np.array(right["full"])
        by_seed = own.mean(1)
        ahead, width = mean_and_width((own - full).mean(0))
        rows.append([way, by_seed.tolist(), float(ahead), float(width)])
    return rows


def training_table(rows):
    lines = ["| attention | accuracy (smallest to largest of the seeds) | to full |"]
    lines.append("|---|---|---|")
    for way, seeds, ahead, width in rows:
        told = "" if way == "full" else f"{ahead:+.3f} +- {width:.3f}"
        spread = f"{min(seeds):.3f} to {max(seeds):.3f}"
        lines.append(f"| {way} | {np.mean(seeds):.3f} ({spread}) | {told} |")
    return "\n".join(lines)


def picture_of(examples, model, kept, rows, file):
    figure = Figure(figsize=(12, 8.4), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.25, 1))
    shown = ("SEC", "slow mode, halved (ours)")
    for row, axes in zip(examples, top.subplots(2, 5), strict=True):
        axes[0].imshow(row)
        heads = read_attention(row, model, layers=(3,), size=SIZE).heads[0]
        for i, head in enumerate((0, 3)):
            for j, name in enumerate(shown):
                labels = NAMED[name](heads[head], 4, 0).view(SIDE, SIDE)
                ax = axes[1 + 2 * i + j]
                ax.imshow(row, alpha=0.35)
                box = (0, SIZE, SIZE, 0)
                ax.imshow(labels, alpha=0.65, cmap="viridis", extent=box)
                told = name.split(",")[0]
                ax.set_title(f"{told}, layer 3, head {head}", fontsize=9)
        for ax in axes:
            ax.set(xticks=[], yticks=[])
    axes = bottom.subplots(1, 3, width_ratios=(1, 1, 0.8))
    for ax, count in zip(axes, COUNTS, strict=False):
        for name in NAMED:
            means = [
                np.mean([run[f"{layer}|{count}|{name}"] for run in kept])
                for layer in LAYERS
            ]
            ax.plot(range(len(LAYERS)), means, marker="o", label=name, markersize=4)
        ax.set_xticks(range(len(LAYERS)), LAYERS)
        ax.set(title=f"{count} equal groups", xlabel="layer", ylim=(0, None))
    axes[0].set_ylabel("attention mass kept")
    axes[1].legend(fontsize=7)
    for i, (_, seeds, *_) in enumerate(rows):
        axes[2].bar(i, np.mean(seeds), color="0.8")
        axes[2].plot([i] * len(seeds), seeds, "k.", markersize=5)
    every = [value for _, seeds, *_ in rows for value in seeds]
    axes[2].set_ylim(min(every) - 0.02, max(every) + 0.005)
    axes[2].set_xticks(range(len(rows)), [r[0] for r in rows], rotation=20, fontsize=8)
    axes[2].set_title("Fashion-MNIST, trained from scratch")
    axes[2].set_ylabel("test accuracy")
    figure.savefig(file, dpi=110)


def main():
    parser = arguments(__doc__, "sec")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600)
    args = parser.parse_args()
    runs, files, model = args.out / "runs", pictures_of(args), load()
    kept, features = [], []
    for i, file in enumerate(files):
        picture = square(file)
        told = partial(kept_in, picture, model, i)
        kept.append(kept_run(runs, f"kept-{file.stem}", told))
        told = partial(features_in, picture, model, i)
        features.append(kept_run(runs, f"features-{file.stem}", told))
    fashion = args.data / "fashion-mnist" / "data"
    data = *load_fashion(fashion, "train"), *load_fashion(fashion, "t10k")
    cells = [
        kept_run(
            runs, f"trained-{way.split()[0].strip(',')}-{seed}-{args.steps}",
            partial(trained, way, seed, data, args.steps),
        )
        for seed in range(args.seeds)
        for way in WAYS
    ]  # fmt: skip
    times = {
        n: kept_run(runs, f"speed-{n}", partial(speed, n, counts, rounds))
        for n, counts, rounds in MEASURED
    }
    rows = accuracies(cells)
    parts = [
        f"Attention mass kept, mean over {len(files)} pictures, all heads:",
        kept_table(kept),
        "Cosine to the model's own features, patches / class token:",
        feature_table(features),
        "CPU time of one thread, six heads of 64, runs in turns, median of the ratios:",
        speed_table(times),
        f"Fashion-MNIST, {args.steps} steps, {PATCHES} patches in {GROUPS} groups:",
        training_table(rows),
    ]
    (args.out / "sec.md").write_text("\n\n".join(parts) + "\n")
    keys = list(kept[0])
    told = {
        "pictures": [file.name for file in files],
        "kept, mean and 95 % half width": summary(kept, keys),
        "features": {
            key: [x.tolist() for x in pair]
            for key, pair in summary(features, list(features[0])).items()
        },
        "speed": times,
        "training": rows,
    }
    (args.out / "sec.json").write_text(json.dumps(told, indent=1))
    picture_of([square(f) for f in files[:2]], model, kept, rows, args.out / "sec.png")
    print((args.out / "sec.md").read_text())


if __name__ == "__main__":
    main()
