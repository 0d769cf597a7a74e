"""Accuracy kept and time saved when a vision transformer drops patches.

    python benchmarks/vision/pruning.py --data ../shared/data

Writes pruning.md and pruning.json beside itself. The packaged DINOv2-S reads pictures
of 224 x 224 (256 patches); after one layer a share of the patches stays. Classifiers
are trained on class tokens of the whole model and never on pruned ones: a ridge
classifier and the nearest class mean on ants and bees (244 pictures to train on, 153 to
test), the nearest class mean on voc99 (one picture left out at a time). Nothing was
chosen on these pictures. Accuracy is measured in bfloat16. Speed is that of `prune` in
float32, scores included, beside the whole model, run in turn: seconds of the processor
on one thread. About 6 minutes on one idle core.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.stats import spearmanr
from scipy.stats import t as student
from sklearn.linear_model import RidgeClassifierCV

from attnchain import capture, load
from attnchain.methods import (
    ClassRowScore,
    ColumnSumScore,
    LayerReading,
    RandomScore,
    TokenRankScore,
    ZeroTPruneScore,
    prune,
)
from attnchain.models import read_picture

SIZE, BATCH, TIMED, SEEDS = 224, 16, 4, 5
LAYERS, KEEPS = (2, 5, 8), (0.5, 0.25, 0.12)
SCORES = {
    "column sum": ColumnSumScore(),
    "TokenRank, incoming": TokenRankScore(),
    "TokenRank, outgoing": TokenRankScore("outgoing"),
    "class token's row": ClassRowScore(),
    "Zero-TPrune": ZeroTPruneScore(),
    "Zero-TPrune, votes only": ZeroTPruneScore(alike=0.0),
    "random": RandomScore(),
}
MEASURES = ("ridge", "nearest mean", "voc99", "cosine")
HERE = Path(__file__).with_suffix("")


def square(file):
    """The middle square of a picture."""
    picture = read_picture(file)
    side = min(picture.size)
    left, top = ((length - side) // 2 for length in picture.size)
    return picture.crop((left, top, left + side, top + side))


def insects(folder):
    """Files and classes of one part of hymenoptera."""
    files = sorted(folder.glob("*/*.jpg"))
    return files, np.array([file.parent.name == "bees" for file in files], int)


def voc(folder):
    """Pictures of voc99 by the class of their chosen object, where others have it."""
    files, classes = [], []
    for file in sorted((folder / "objects").iterdir()):
        chosen = np.array(Image.open(file)) == 255
        masks = np.array(Image.open(folder / "masks" / file.name))
        classes.append(int(np.bincount(masks[chosen]).argmax()))
        files += [next((folder / "images").glob(f"{file.stem}.*"))]
    shared = [i for i, own in enumerate(classes) if classes.count(own) > 1]
    return [files[i] for i in shared], np.array([classes[i] for i in shared])


def rest(model, states, after):
    """Class tokens of the states behind a layer."""
    for layer in model.encoder.layer[after + 1 :]:
        states = layer(states)
    return model.layernorm(states)[:, 0]


@torch.no_grad()
def class_tokens(loaded, files):
    """Class tokens of whole pictures, and by (layer, keep, score) of pruned ones."""
    model, found = loaded.model, {}
    for start in range(0, len(files), BATCH):
        pictures = [square(file) for file in files[start : start + BATCH]]
        pixels = torch.cat([loaded.pixels(one, size=SIZE) for one in pictures])
        pixels = pixels.to(next(model.parameters()).dtype)
        with capture(model, layers=LAYERS) as attention:
            out = model(pixels, output_hidden_states=True)
        parts = {"whole": out.last_hidden_state[:, 0]}
        for record, layer in zip(attention, LAYERS, strict=True):
            reading = LayerReading(record.probabilities(), record.k, loaded.prefix)
            parts |= pruned_tokens(model, out.hidden_states[layer + 1], reading, layer)
        for name, tokens in parts.items():
            found.setdefault(name, []).append(tokens)
        print(start + len(pictures), "of", len(files), flush=True)
    return {name: torch.cat(own).float().numpy() for name, own in found.items()}


def pruned_tokens(model, states, reading, layer):
    """What the layers behind one make of the patches that each score keeps."""
    found, patches = {}, states.shape[1] - reading.prefix
    for name, score in SCORES.items():
        for keep in KEEPS:
            for seed in range(SEEDS if name == "random" else 1):
                kept = score.kept(reading, round(keep * patches)) + reading.prefix
                places = kept[..., None].expand(-1, -1, states.shape[-1])
                prefix = states[:, : reading.prefix]
                left = torch.cat([prefix, states.gather(1, places)], 1)
                found[f"{layer}|{keep}|{name}|{seed}"] = rest(model, left, layer)
    return found


def check_the_switch(loaded, file, expected):
    """That `prune` gives what the table is made of; raises where it does not."""
    pixels = loaded.pixels(square(file), size=SIZE)
    with (
        torch.no_grad(),
        prune(loaded.model, layer=5, keep=0.25, score=ColumnSumScore()),
    ):
        found = loaded.model(pixels).last_hidden_state[0, 0]
    torch.testing.assert_close(found.float(), expected, atol=0.1, rtol=0.05)


def standardised(train, *others):
    mean, spread = train.mean(0), train.std(0)
    return [(x - mean) / spread for x in (train, *others)]


def nearest_mean(train, classes, test):
    """Class of the nearest mean by cosine."""
    kinds = np.unique(classes)
    means = np.stack([train[classes == kind].mean(0) for kind in kinds])
    means, test = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (means, test))
    return kinds[(test @ means.T).argmax(1)]


def one_left_out(whole, classes, test):
    """Nearest class mean of each picture, its own whole picture not in the means."""
    others = [np.arange(len(whole)) != i for i in range(len(whole))]
    return np.array(
        [
            nearest_mean(whole[o], classes[o], test[i : i + 1])[0]
            for i, o in enumerate(others)
        ]
    )


def cosines(one, other):
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return (one * other).sum(1) / norms


def measured(train, test, pictures):
    """By setting and measure, one number a picture; each part is tokens, classes."""
    (train, train_classes), (test, classes), (pictures, kinds) = train, test, pictures
    fitted = RidgeClassifierCV(alphas=np.logspace(-2, 5, 15))
    fitted.fit(standardised(train)[0], train_classes)
    found = {}
    for name, tokens in test.items():
        guess = fitted.predict(standardised(train, tokens)[1])
        near = nearest_mean(train, train_classes, tokens)
        one = one_left_out(pictures["whole"], kinds, pictures[name])
        found[name] = {
            "ridge": (guess == classes).astype(float),
            "nearest mean": (near == classes).astype(float),
            "voc99": (one == kinds).astype(float),
            "cosine": cosines(tokens, test["whole"]),
        }
    return found


def over_seeds(found):
    """The same with the seeds of a setting averaged, picture by picture."""
    settings = {}
    for name, values in found.items():
        settings.setdefault(name.rpartition("|")[0] or name, []).append(values)
    return {
        name: {m: np.mean([run[m] for run in runs], 0) for m in MEASURES}
        for name, runs in settings.items()
    }


def interval(values):
    """Mean and half width of a 95 % interval over pictures."""
    half = student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1)
    return float(np.mean(values)), float(half / len(values) ** 0.5)


@torch.no_grad()
def speeds(loaded, files, repeats):
    """How many times as fast as the whole model, run in turn: median, least, most."""
    pixels = torch.cat([loaded.pixels(square(f), size=SIZE) for f in files[:TIMED]])
    chosen = [(layer, keep, "column sum") for layer in LAYERS for keep in KEEPS]
    chosen += [(5, 0.25, name) for name in SCORES if name != "column sum"]
    ratios = {}
    seconds(loaded.model, pixels)
    for repeat in range(repeats):
        for layer, keep, name in chosen:
            whole = seconds(loaded.model, pixels)
            with prune(loaded.model, layer=layer, keep=keep, score=SCORES[name]):
                own = seconds(loaded.model, pixels)
            ratios.setdefault(f"{layer}|{keep}|{name}", []).append(whole / own)
        print("speed", repeat, flush=True)
    return {
        key: (float(np.median(own)), float(np.min(own)), float(np.max(own)))
        for key, own in ratios.items()
    }


def seconds(model, pixels):
    begun = time.process_time()
    model(pixels)
    return time.process_time() - begun


@torch.no_grad()
def agreement(loaded, files):
    """Rank correlation of each score with the column sum, over patches, by layer."""
    pixels = torch.cat([loaded.pixels(square(f), size=SIZE) for f in files[:BATCH]])
    with capture(loaded.model, layers=LAYERS) as attention:
        loaded.model(pixels)
    found = {}
    for record, layer in zip(attention, LAYERS, strict=True):
        reading = LayerReading(record.probabilities(), record.k, loaded.prefix)
        patches = {
            name: score.of(reading)[:, loaded.prefix :].numpy()
            for name, score in SCORES.items()
        }
        for name, own in patches.items():
            pairs = zip(own, patches["column sum"], strict=True)
            found[f"{layer}|{name}"] = float(
                np.mean([spearmanr(*pair).statistic for pair in pairs])
            )
    return found


def cell(pair, sign=""):
    return f"{pair[0]:{sign}.3f} ± {pair[1]:.3f}"


def table(result):
    """Markdown: every setting, and beside the column sum, paired."""
    whole = result["settings"].pop("whole")
    named = ", ".join(f"{m} {whole[m][0]:.3f}" for m in MEASURES[:3])
    lines = [
        f"The whole model: {named}. Means and half a 95 % interval over pictures, then "
        "the difference to the column sum at the same layer and share, paired.",
        "",
        "| after layer | kept | by | ridge | nearest mean | voc99 | cosine | ridge, "
        "against column sum | cosine, against column sum |",
        "|---" * 9 + "|",
    ]
    for key, own in result["settings"].items():
        gap = result["gaps"][key]
        cells = [cell(own[m]) for m in MEASURES]
        cells += [cell(gap[m], "+") for m in ("ridge", "cosine")]
        lines.append(f"| {' | '.join((*key.split('|'), *cells))} |")
    lines += ["", "Times as fast as the whole model (median, least and most of the "
              "runs), scores included:", "",
              "| after layer | kept | by | speed |", "|---|---|---|---|"]  # fmt: skip
    for key, (middle, least, most) in result["speed"].items():
        speed = f"{middle:.2f} ({least:.2f} to {most:.2f})"
        lines.append(f"| {key.replace('|', ' | ')} | {speed} |")
    lines += ["", "Rank correlation with the column sum, over patches:", ""]
    lines += ["| layer | score | Spearman |", "|---|---|---|"]
    for key, value in result["agreement"].items():
        lines.append(f"| {key.replace('|', ' | ')} | {value:.3f} |")
    return "\n".join(lines) + "\n"


@torch.no_grad()
def whole_tokens(loaded, files):
    pixels = (loaded.pixels(square(file), size=SIZE).bfloat16() for file in files)
    tokens = [loaded.model(x).last_hidden_state[:, 0] for x in pixels]
    return torch.cat(tokens).float().numpy()


def against_column_sum(found):
    """Paired differences to the column sum at the same layer and share."""
    gaps = {}
    for key in found.keys() - {"whole"}:
        base = found[f"{key.rpartition('|')[0]}|column sum"]
        gaps[key] = {m: interval(found[key][m] - base[m]) for m in MEASURES}
    return gaps


def looked_at(loaded, files, repeats):
    """Speeds, correlations, and class tokens of the three parts; the long half."""
    train, test, pictures = files
    speed, correlations = speeds(loaded, train, repeats), agreement(loaded, test)
    loaded.model.bfloat16()
    tokens = (
        whole_tokens(loaded, train),
        class_tokens(loaded, test),
        class_tokens(loaded, pictures),
    )
    expected = torch.from_numpy(tokens[1]["5|0.25|column sum|0"][0])
    check_the_switch(loaded, test[0], expected)
    return tokens, {"speed": speed, "agreement": correlations}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--every", type=int, default=1, help="take every so many")
    args = parser.parse_args()
    torch.set_num_threads(1)
    parts = [insects(args.data / "hymenoptera" / part) for part in ("train", "val")]
    parts.append(voc(args.data / "voc99"))
    files = [files[:: args.every] for files, _ in parts]
    kinds = [kinds[:: args.every] for _, kinds in parts]
    tokens, result = looked_at(load(), files, args.repeats)
    found = over_seeds(measured(*zip(tokens, kinds, strict=True)))
    result |= {
        "settings": {
            k: {m: interval(v[m]) for m in MEASURES} for k, v in found.items()
        },
        "gaps": against_column_sum(found),
        "pictures": [len(own) for own in files],
    }
    HERE.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    HERE.with_suffix(".md").write_text(table(result))


if __name__ == "__main__":
    main()
