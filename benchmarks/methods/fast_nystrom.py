"""Fast Nystrom attention in a running DINOv2-S: how near it stays, and its speed.

1. Cosine of the model's output to its own, 224 px (257 tokens), by number of landmarks,
   for landmarks as the authors choose them (farthest points of q, class token sure),
   the same without it, and random ones with it. Chosen once, in the first such layer.
2. CPU time of one thread over that of fused attention: one call of attention, and the
   whole model with some layers replaced, from 1,025 to 16,385 tokens; runs take turns.

    python benchmarks/methods/fast_nystrom.py --data ../shared/data

Pictures (the first of voc99) and sizes are kept in OUT/runs as they end: a killed
benchmark goes on where it stopped. Writes OUT/fast_nystrom.md, .json and .png. About
15 minutes on one idle core.
"""

import json
import time
from functools import partial
from itertools import product

import numpy as np
import torch
from kept import arguments, kept_run, mean_and_width, pictures_of
from matplotlib.figure import Figure
from sec import square
from torch.nn.functional import cosine_similarity, scaled_dot_product_attention

from attnchain.capturing import replaced_attention
from attnchain.methods import (
    farthest_points,
    fast_nystrom_layers,
    nystrom_attention,
)
from attnchain.models import load

PATCH, SIZE = 14, 224
NUMBERS = (16, 32, 64, 128)
REPLACED = {"layers 8-11": range(8, 12), "layers 4-11": range(4, 12)}
TIMED = {**REPLACED, "all layers": range(12)}
SIDES = {32: 7, 64: 3, 128: 1}
"""Patches on a side, and rounds of the model."""
LANDMARKS = 64


def authors(model, count, layers):
    return fast_nystrom_layers(model, count, layers=layers)


def without_class_token(model, count, layers):
    return fast_nystrom_layers(model, count, layers=layers, guaranteed=())


def random_landmarks(model, count, layers):
    chosen = torch.randperm(256, generator=torch.Generator().manual_seed(0)) + 1
    landmarks = torch.cat([torch.zeros(1, dtype=torch.long), chosen[: count - 1]])
    attend = partial(nystrom_attention, landmarks=landmarks)
    return replaced_attention(model, attend, layers=layers)


WAYS = {
    "farthest on q, class token sure (authors)": authors,
    "farthest on q": without_class_token,
    "random, class token sure": random_landmarks,
}


def output(model, pixels):
    with torch.no_grad():
        return model.model(pixels).last_hidden_state[0]


def nearness(picture, model):
    """Mean cosine of all tokens to the model's own output."""
    pixels = model.pixels(picture, size=SIZE)
    exact, found = output(model, pixels), {}
    for where, count, way in product(REPLACED, NUMBERS, WAYS):
        with WAYS[way](model.model, count, REPLACED[where]):
            changed = output(model, pixels)
        cosine = cosine_similarity(changed, exact, dim=-1)
        found[f"{where}|{count}|{way}"] = float(cosine.mean())
    return found


def timed(runs, rounds):
    """CPU seconds of each run; the runs take turns."""
    took = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            begun = time.process_time()
            run()
            took[name].append(time.process_time() - begun)
    return {name: np.array(times) for name, times in took.items()}


def against(took, name):
    """Median, smallest and largest ratio to the named run of the same round."""
    base = took[name]
    spread = {
        other: [float(f(times / base)) for f in (np.median, np.min, np.max)]
        for other, times in took.items()
        if other != name
    }
    return {"CPU seconds": float(np.median(base)), "ratios": spread}


def one_call(n, rounds):
    """One call for six heads of 64 features, landmarks drawn and chosen."""
    q, k, v = torch.randn(3, 1, 6, n, 64, generator=torch.Generator().manual_seed(0))
    features = q[0].transpose(0, 1).flatten(1)
    landmarks = torch.arange(0, n, n // LANDMARKS)[:LANDMARKS]
    runs = {
        "fused": partial(scaled_dot_product_attention, q, k, v),
        "Nystrom": partial(nystrom_attention, q, k, v, landmarks),
        "choosing": partial(farthest_points, features, LANDMARKS, guaranteed=(0,)),
    }
    with torch.no_grad():
        return against(timed(runs, rounds), "fused")


def whole_model(picture, model, side, rounds):
    """The model at side * side patches, and how near its output stays."""
    pixels = model.pixels(picture, size=side * PATCH)
    outputs = {}

    def run(name):
        if name == "fused":
            outputs[name] = output(model, pixels)
            return
        with authors(model.model, LANDMARKS, TIMED[name]):
            outputs[name] = output(model, pixels)

    took = timed({name: partial(run, name) for name in ("fused", *TIMED)}, rounds)
    exact = outputs.pop("fused")
    cosines = {
        name: float(cosine_similarity(found, exact, dim=-1).mean())
        for name, found in outputs.items()
    }
    return {**against(took, "fused"), "cosines": cosines}


def nearness_table(runs):
    lines = ["| replaced, landmarks | " + " | ".join(WAYS) + " | authors - random |"]
    lines.append("|---" * (len(WAYS) + 2) + "|")
    for where, count in product(REPLACED, NUMBERS):
        rows = np.array(
            [[run[f"{where}|{count}|{way}"] for way in WAYS] for run in runs]
        )
        ahead, width = mean_and_width(rows[:, 0] - rows[:, -1])
        cells = " | ".join(f"{x:.3f}" for x in rows.mean(0))
        lines.append(f"| {where}, {count} | {cells} | {ahead:+.3f} +- {width:.3f} |")
    return "\n".join(lines)


def speed_table(calls, models):
    head = (
        "tokens | one call | choosing, once | " + " | ".join(TIMED) + " | fused, CPU s"
    )
    lines = [f"| {head} |", "|---" * (len(TIMED) + 4) + "|"]
    for side in SIDES:
        call, whole = calls[side], models[side]
        cells = [f"{call['ratios'][name][0]:.3f}" for name in ("Nystrom", "choosing")]
        cells += [
            f"{whole['ratios'][name][0]:.3f} (cosine {whole['cosines'][name]:.3f})"
            for name in TIMED
        ]
        seconds = f"{call['CPU seconds']:.2f}, model {whole['CPU seconds']:.1f}"
        lines.append(f"| {side * side + 1} | {' | '.join(cells)} | {seconds} |")
    return "\n".join(lines)


def picture_of(runs, calls, models, file):
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    axes = figure.subplots(1, 3)
    for ax, where in zip(axes, REPLACED, strict=False):
        for way in WAYS:
            means = [
                np.mean([run[f"{where}|{count}|{way}"] for run in runs])
                for count in NUMBERS
            ]
            ax.plot(NUMBERS, means, marker="o", label=way, markersize=4)
        ax.set(title=f"{where} replaced", xlabel="landmarks", xscale="log")
        ax.set_xticks(NUMBERS, NUMBERS)
        ax.minorticks_off()
    axes[0].set_ylabel("cosine to the model's own output")
    axes[0].legend(fontsize=7)
    tokens = [side * side + 1 for side in SIDES]
    one = [calls[side]["ratios"]["Nystrom"][0] for side in SIDES]
    axes[2].plot(tokens, one, marker="o", markersize=4, label="one call of attention")
    for name in TIMED:
        ratios = [models[side]["ratios"][name][0] for side in SIDES]
        label = f"model, {name}"
        axes[2].plot(tokens, ratios, marker="o", markersize=4, label=label)
    axes[2].axhline(1, color="0.7", linewidth=1)
    axes[2].set(xscale="log", yscale="log", xlabel="tokens")
    axes[2].set(title=f"CPU time over fused, {LANDMARKS} landmarks")
    axes[2].set_xticks(tokens, tokens)
    axes[2].minorticks_off()
    axes[2].legend(fontsize=7)
    figure.savefig(file, dpi=110)


def main():
    args = arguments(__doc__, "fast_nystrom").parse_args()
    folder, files, model = args.out / "runs", pictures_of(args), load()
    runs = [
        kept_run(folder, f"near-{file.stem}", partial(nearness, square(file), model))
        for file in files
    ]
    calls, models = {}, {}
    for side, rounds in SIDES.items():
        made = partial(one_call, side * side + 1, rounds + 2)
        calls[side] = kept_run(folder, f"call-{side}", made)
        made = partial(whole_model, square(files[0]), model, side, rounds)
        models[side] = kept_run(folder, f"model-{side}", made)
    parts = [
        f"Cosine of the output, mean over {len(files)} pictures:",
        nearness_table(runs),
        f"CPU time of one thread over fused attention's, {LANDMARKS} landmarks:",
        speed_table(calls, models),
    ]
    (args.out / "fast_nystrom.md").write_text("\n\n".join(parts) + "\n")
    nearnesses = {
        key: [float(x) for x in mean_and_width([run[key] for run in runs])]
        for key in runs[0]
    }
    told = {
        "pictures": [file.name for file in files],
        "cosine, mean and 95 % half width": nearnesses,
        "one call": calls,
        "model": models,
    }
    (args.out / "fast_nystrom.json").write_text(json.dumps(told, indent=1))
    picture_of(runs, calls, models, args.out / "fast_nystrom.png")
    print((args.out / "fast_nystrom.md").read_text())


if __name__ == "__main__":
    main()
