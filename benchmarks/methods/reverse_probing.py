"""What labels tell about clusters of features, and about metastable sets.

The states of every patch are clusters of the features of a layer (of an untrained
model, of colours, of places), or of the segments that the attention chain, k-means or
chance cut each picture into. The concept is what people call the patch. All bits are
on pictures not learned from.

    python benchmarks/methods/reverse_probing.py --data ../shared/data

Writes OUT/reverse_probing.md, .json and .png. About 10 minutes on one idle core.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from scipy.cluster.vq import kmeans2
from torch.nn.functional import normalize

from attnchain.errors import ArgumentError
from attnchain.markov import metastable_sets
from attnchain.methods import ablate, reverse_probe
from attnchain.models import load, read_picture
from attnchain.vision import read_attention

LAYERS = (4, 6, 8, 10, 11, 12)
CHAIN_LAYER = 10
CLUSTERS = 16
SEGMENTS = 6
SIZE = 224
SEEDS = 3
EXAMPLES = [
    Path(__file__).parents[2] / "examples" / f"{name}.png"
    for name in ("astronaut", "chelsea", "coffee")
]
VOC = (
    *("background", "airplane", "bicycle", "bird", "boat", "bottle", "bus", "car"),
    *("cat", "chair", "cow", "dining table", "dog", "horse", "motorcycle", "person"),
    *("potted plant", "sheep", "couch", "train", "tv"),
)
COCO = (
    *("background", "person", "bicycle", "car", "motorcycle", "airplane", "bus"),
    *("train", "truck", "boat", "traffic light", "fire hydrant", "stop sign"),
    *("parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow"),
    *("elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag"),
    *("tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite"),
    *("baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket"),
    *("bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana"),
    *("apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza"),
    *("donut", "cake", "chair", "couch", "potted plant", "bed", "dining table"),
    *("toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone"),
    *("microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock"),
    *("vase", "scissors", "teddy bear", "hair drier", "toothbrush"),
)
FAMILIES = {
    "background": range(1),
    "person": range(1, 2),
    "vehicles": range(2, 10),
    "animals": range(15, 25),
    "food and kitchen": range(40, 57),
    "furniture and electronics": range(57, 70),
}
VOID = 255


def pictures(data, folder, names):
    """Picture files with their masks, as numbers of COCO's classes."""
    number = np.full(256, -1)
    number[: len(names)] = [COCO.index(n) if n in COCO else -1 for n in names]
    for file in sorted((data / folder / "images").iterdir()):
        mask = Image.open(data / folder / "masks" / f"{file.stem}.png")
        yield folder, file, mask, number


def patches(file, mask, number, model):
    """Features of all layers, colours, places and labels of a picture's patches."""
    picture = read_picture(file)
    pixels = model.pixels(picture, size=SIZE)
    grid = model.grid(pixels)
    with torch.no_grad():
        hidden = model.model(pixels, output_hidden_states=True).hidden_states
    size = (grid.columns, grid.rows)
    small = picture.convert("RGB").resize(size, Image.Resampling.BOX)
    rows, columns = np.mgrid[: grid.rows, : grid.columns]
    place = np.stack([rows / grid.rows, columns / grid.columns], -1).reshape(-1, 2)
    features = {f"layer {i}": hidden[i][0, model.prefix :] for i in LAYERS}
    features["colour"] = torch.tensor(np.array(small)).reshape(-1, 3).float() / 255
    features["place"] = torch.tensor(place).float()
    values = np.array(mask.resize(size, Image.Resampling.NEAREST)).reshape(-1)
    labels = torch.from_numpy(np.where(values == VOID, -1, number[values]))
    return features, labels, (grid.rows, grid.columns)


def untrained(file, model, blank):
    pixels = model.pixels(read_picture(file), size=SIZE)
    with torch.no_grad():
        return blank(pixels).last_hidden_state[0, model.prefix :]


def clusters(features, count, seed, *, unit=True):
    """Which of `count` centres each row is nearest to."""
    rows = normalize(features, dim=-1) if unit else features
    options = {"minit": "++", "missing": "warn", "seed": seed, "iter": 30}
    return torch.from_numpy(kmeans2(rows.numpy(), count, **options)[1]).long()


def segments(file, model, features):
    """For each draw each patch's segment, by three ways of cutting as many."""
    picture = read_picture(file)
    found = read_attention(picture, model, layers=[CHAIN_LAYER - 1], size=SIZE)
    for count in (SEGMENTS, SEGMENTS + 1, SEGMENTS - 1):
        try:
            sets = metastable_sets(found.chain, count).labels
            break
        except ArgumentError:  # this number would split a complex pair
            continue
    rows, columns = torch.arange(found.grid.rows), torch.arange(found.grid.columns)
    place = torch.cartesian_prod(rows, columns).float()
    cuts = []
    for seed in range(SEEDS):
        generator = torch.Generator().manual_seed(seed)
        centres = torch.randperm(len(place), generator=generator)[:count]
        nearest = torch.cdist(place, place[centres]).argmin(-1)
        means = clusters(features, count, seed)
        cuts.append({"metastable sets": sets, "k-means": means, "chance": nearest})
    return cuts


def named_segments(cut, features, seed):
    """States of patches: the cluster of their segment's mean feature."""
    means, owner, place = [], [], 0
    for labels, rows in zip(cut, features, strict=True):
        _, own = labels.unique(return_inverse=True)
        means += [rows[own == i].mean(0) for i in range(int(own.max()) + 1)]
        owner.append(own + place)
        place = len(means)
    return clusters(torch.stack(means), CLUSTERS, seed)[torch.cat(owner)]


def told(states, concepts, groups):
    """Bits of several draws of the clusters: mean, error of groups, range of draws."""
    probes = [reverse_probe(s, concepts, groups=groups) for s in states]
    bits = [p.bits for p in probes]
    return {
        "bits": float(np.mean(bits)),
        "standard error": float(np.mean([p.standard_error for p in probes])),
        "draws": [min(bits), max(bits)],
        "entropy": float(np.mean([p.entropy for p in probes])),
        "in sample": float(np.mean([p.bits_in_sample for p in probes])),
        "strengths": sorted({s for p in probes for s in p.strengths}),
    }, probes


def read(data, model):
    """All that is used of the pictures."""
    torch.manual_seed(0)
    blank = type(model.model)(model.model.config).eval()
    sets = (("voc99", VOC), ("coco128", COCO))
    found = []
    for group, entry in enumerate(e for s in sets for e in pictures(data, *s)):
        folder, file, mask, number = entry
        features, labels, grid = patches(file, mask, number, model)
        features["untrained model"] = untrained(file, model, blank)
        cut = segments(file, model, features[f"layer {CHAIN_LAYER}"])
        found.append(
            {
                "set": folder,
                "file": file,
                "group": group,
                "labels": labels,
                "grid": grid,
            }
            | {"labels": labels, "features": features, "cut": cut}
        )
    return found


def rows_of(found):
    """Labels, picture of every row, and which rows have a label."""
    labels = torch.cat([one["labels"] for one in found])
    groups = torch.cat(
        [torch.full((len(one["labels"]),), one["group"]) for one in found]
    )
    return labels, groups, labels >= 0


def of_picture(found):
    """Which classes are anywhere in the picture of each patch."""
    rows = []
    for one in found:
        known = one["labels"][one["labels"] >= 0]
        here = torch.zeros(len(COCO), dtype=torch.bool)
        here[known] = True
        rows.append(here.expand(len(one["labels"]), -1))
    return torch.cat(rows)


def measure(found):
    """All rows of the table."""
    labels, groups, known = rows_of(found)
    own = torch.nn.functional.one_hot(labels.clamp_min(0), len(COCO)).bool()
    table, kept = {}, {}
    print(f"{len(found)} pictures", flush=True)
    for name in found[0]["features"]:
        whole = torch.cat([one["features"][name] for one in found])
        unit = name not in ("colour", "place")
        drawn = [clusters(whole, CLUSTERS, s, unit=unit) for s in range(SEEDS)]
        held = [s[known] for s in drawn]
        table[name], probes = told(held, own[known], groups[known])
        kept[name] = (drawn[0], probes[0])
        print(name, table[name], flush=True)
        if name == f"layer {CHAIN_LAYER}":
            wide = of_picture(found)
            both = torch.cat([own, wide], 1)
            table[f"{name}, classes of the picture"], _ = told(
                held, wide[known], groups[known]
            )
            table[f"{name}, both"], _ = told(held, both[known], groups[known])
            mixed = [s[torch.randperm(len(s))] for s in held]
            table[f"{name}, shuffled"], _ = told(mixed, own[known], groups[known])
    base = f"layer {CHAIN_LAYER}"
    rows = [one["features"][base] for one in found]
    cuts = {}
    for way in found[0]["cut"][0]:
        drawn = [
            named_segments([one["cut"][s][way] for one in found], rows, s)[known]
            for s in range(SEEDS)
        ]
        table[f"segments: {way}"], cuts[way] = told(drawn, own[known], groups[known])
    first, *others = cuts
    paired = {
        f"{first} minus {other}": [
            a.minus(b) for a, b in zip(cuts[first], cuts[other], strict=True)
        ]
        for other in others
    }
    families = {name: list(columns) for name, columns in FAMILIES.items()}
    states = kept[base][0][known]
    lost = ablate(states, own[known], families, groups=groups[known])
    return table, paired, lost, kept


def each_set(found):
    """Bits of the middle layer for each data set alone."""
    alone = {}
    for name in ("voc99", "coco128"):
        some = [one for one in found if one["set"] == name]
        labels, groups, known = rows_of(some)
        own = torch.nn.functional.one_hot(labels.clamp_min(0), len(COCO)).bool()
        whole = torch.cat([o["features"][f"layer {CHAIN_LAYER}"] for o in some])
        drawn = [clusters(whole, CLUSTERS, s)[known] for s in range(SEEDS)]
        alone[name], _ = told(drawn, own[known], groups[known])
    return alone


def written(table, paired, lost, alone, names):
    lines = [
        "| states | bits told (standard error over pictures) | draws of clusters "
        "| of entropy | in sample |",
        "|---|---|---|---|---|",
    ]
    for name, row in {**table, **alone}.items():
        low, high = row["draws"]
        lines.append(
            f"| {name} | {row['bits']:+.3f} ({row['standard error']:.3f}) "
            f"| {low:+.3f} to {high:+.3f} | {row['entropy']:.2f} "
            f"| {row['in sample']:.3f} |"
        )
    lines += ["", "| paired, for each draw | bits (standard error) |", "|---|---|"]
    for name, pairs in paired.items():
        values = ", ".join(f"{bits:+.3f} ({error:.3f})" for bits, error in pairs)
        lines.append(f"| {name} | {values} |")
    lines += ["", "| left out | bits lost (standard error) |", "|---|---|"]
    lines += [f"| {n} | {b:+.3f} ({e:.3f}) |" for n, (b, e) in lost.items()]
    lines += ["", "| cluster | bits told about it | names |", "|---|---|---|"]
    lines += [f"| {i} | {b:+.2f} | {', '.join(n)} |" for i, b, n in names]
    return "\n".join(lines) + "\n"


def picture(table, names, shown_pictures, file):
    figure = Figure(figsize=(13, 6), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=(1.5, 1))
    left, right = upper.subplots(1, 2)
    points = [table[f"layer {i}"] for i in LAYERS]
    left.errorbar(
        LAYERS,
        [p["bits"] for p in points],
        [1.96 * p["standard error"] for p in points],
        marker="o",
        capsize=3,
        label="held out",
    )
    left.plot(LAYERS, [p["in sample"] for p in points], ":", label="in sample")
    for name, style in (("untrained model", "-."), ("colour", "--"), ("place", ":")):
        left.axhline(table[name]["bits"], color="grey", linestyle=style, label=name)
    left.axhline(0, color="black", linewidth=0.8)
    left.set(xlabel="layer", ylabel="bits", title="Bits that labels tell of clusters")
    left.legend(fontsize=7)
    ways = [name for name in table if name.startswith("segments")]
    bars = [f"layer {CHAIN_LAYER}", *ways, f"layer {CHAIN_LAYER}, shuffled"]
    right.barh(
        range(len(bars)),
        [table[n]["bits"] for n in bars],
        xerr=[1.96 * table[n]["standard error"] for n in bars],
        capsize=3,
    )
    right.set_yticks(range(len(bars)), bars, fontsize=8)
    right.invert_yaxis()
    right.set(xlabel="bits, 95 % over pictures", title="Segments of each picture")
    axes = lower.subplots(1, 6)
    for column, (raw, place) in enumerate(shown_pictures):
        axes[2 * column].imshow(raw)
        axes[2 * column + 1].imshow(place, cmap="tab20", vmin=0, vmax=CLUSTERS - 1)
        most = place.flatten().bincount(minlength=CLUSTERS).topk(3)
        told_of = [names[int(i)][2] for i in most.indices]
        axes[2 * column + 1].set_title(
            "\n".join(" / ".join(n[:2]) or "-" for n in told_of),
            fontsize=7,
        )
    for ax in axes.flat:
        ax.axis("off")
    figure.savefig(file, dpi=120)


def free_pictures(found, states, model):
    """Pictures that may be shown, and the nearest cluster of each of their patches."""
    name = f"layer {CHAIN_LAYER}"
    whole = normalize(torch.cat([one["features"][name] for one in found]), dim=-1)
    centres = torch.stack([whole[states == i].mean(0) for i in range(CLUSTERS)])
    for file in EXAMPLES:
        raw = read_picture(file)
        pixels = model.pixels(raw, size=2 * SIZE)
        grid = model.grid(pixels)
        with torch.no_grad():
            hidden = model.model(pixels, output_hidden_states=True).hidden_states
        rows = normalize(hidden[CHAIN_LAYER][0, model.prefix :], dim=-1)
        nearest = torch.cdist(rows, centres).argmin(-1)
        yield raw, nearest.reshape(grid.rows, grid.columns)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("out/reverse_probing"))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    args.out.mkdir(parents=True, exist_ok=True)
    model = load()
    found = read(args.data, model)
    table, paired, lost, kept = measure(found)
    alone = {f"layer {CHAIN_LAYER}, {n}": row for n, row in each_set(found).items()}
    states, probe = kept[f"layer {CHAIN_LAYER}"]
    bits = probe.state_bits.tolist()
    names = list(zip(range(CLUSTERS), bits, probe.names(COCO), strict=True))
    result = {"table": {**table, **alone}, "paired": paired, "left out": lost}
    result |= {"clusters": names, "pictures": len(found), "size": SIZE}
    result |= {"number of clusters": CLUSTERS, "segments": SEGMENTS, "seeds": SEEDS}
    (args.out / "reverse_probing.json").write_text(json.dumps(result, indent=1))
    text = written(table, paired, lost, alone, names)
    (args.out / "reverse_probing.md").write_text(text)
    shown = free_pictures(found, states, model)
    picture(table, names, shown, args.out / "reverse_probing.png")
    print(text)


if __name__ == "__main__":
    main()
