"""Nested tokens on Fashion-MNIST, beside PCA and beside the same model without nesting.

Eight tokens of four channels. Reconstruction error by number of tokens k: the mean
picture given k tokens (what least squares asks for, and what PCA with 4 k components
gives), and for the flow also a picture drawn given k tokens. `flow` decoders are
trained on noise of all strengths, `regression` ones on the mean alone. A linear probe
says how much of the class the first k tokens tell.

    python benchmarks/methods/nested.py --data ../shared/data/fashion-mnist/data

Trains four models, each resumed where it was stopped, and writes OUT/nested.md (table),
OUT/nested.json, OUT/nested.png, OUT/nested-prefixes.png and the weights in OUT/runs.
nested.safetensors beside this script is OUT/runs/nested-flow.safetensors of that
command; `--use nested-flow=benchmarks/methods/nested.safetensors` takes it as it is.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parents[1] / "guidance"))
from data import CLASSES, DEFAULT_FOLDER, load

from attnchain.nested import (
    NestedTokens,
    TrainingSettings,
    explained_variance,
    prefix_losses,
    train,
)

RUNS = {
    "nested-flow": {"nested": True, "flow": True},
    "plain-flow": {"nested": False, "flow": True},
    "nested-regression": {"nested": True, "flow": False},
    "plain-regression": {"nested": False, "flow": False},
}
SHOWN = (1, 2, 4, 8)
DRAWN, PROBED, PARTS = 2000, 20_000, 500


def trained(name, pictures, args):
    """The model of a run, from its file where there is one."""
    file = args.use.get(name, args.out / "runs" / f"{name}.safetensors")
    if not file.exists():
        torch.manual_seed(args.seed)
        model = NestedTokens()
        settings = TrainingSettings(steps=args.steps, seed=args.seed, **RUNS[name])
        checkpoint = file.with_suffix(".pt")
        print(f"{name}: {args.steps} steps", flush=True)
        history = train(model, pictures, settings, checkpoint=checkpoint, progress=True)
        print(f"{name}: loss {history[0]:.4f} to {history[-1]:.4f}", flush=True)
        model.save(file)
        checkpoint.unlink()
    return NestedTokens.load(file)


class Principal:
    """PCA with `channels` components in the place of each token."""

    def __init__(self, pictures, tokens, channels):
        flat = pictures.flatten(1)
        self.mean = flat.mean(0)
        _, vectors = torch.linalg.eigh(flat.T.cov())
        self.axes = vectors.flip(1)[:, : tokens * channels].T
        self.channels = channels

    def encode(self, pictures):
        return ((pictures.flatten(1) - self.mean) @ self.axes.T).unflatten(
            1, (-1, self.channels)
        )

    def predict_mean(self, prefix):
        parts = prefix.flatten(1)
        found = self.mean + parts @ self.axes[: parts.shape[1]]
        return found.unflatten(1, (1, 28, 28))


def tokens_of(model, pictures):
    with torch.no_grad():
        return torch.cat([model.encode(part) for part in pictures.split(PARTS)])


def squared_errors(pictures, found):
    """Of pixels in [0, 1], for each picture."""
    return (found - pictures).square().flatten(1).mean(1) / 4


def mean_errors(model, pictures):
    """(K + 1, pictures): squared error of the mean picture given each prefix."""
    tokens = tokens_of(model, pictures)
    with torch.no_grad():
        rows = [
            torch.cat(
                [
                    squared_errors(part, model.predict_mean(code[:, :k]))
                    for part, code in zip(
                        pictures.split(PARTS), tokens.split(PARTS), strict=True
                    )
                ]
            )
            for k in range(tokens.shape[1] + 1)
        ]
    return torch.stack(rows)


def drawn_errors(model, pictures):
    """(K + 1): mean squared error of a picture drawn given each prefix."""
    tokens = tokens_of(model, pictures)
    return [
        float(squared_errors(pictures, model.decode(tokens[:, :k], seed=1)).mean())
        for k in range(tokens.shape[1] + 1)
    ]


def probe(learned, classes, tested, truth):
    """Test accuracy of multinomial logistic regression on standardised features."""
    mean, spread = learned.mean(0), learned.std(0).clamp_min(1e-6)
    learned, tested = ((x - mean) / spread for x in (learned, tested))
    weight = torch.zeros(learned.shape[1], CLASSES, requires_grad=True)
    offset = torch.zeros(CLASSES, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, offset], max_iter=100, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        scores = learned @ weight + offset
        loss = torch.nn.functional.cross_entropy(scores, classes)
        loss = loss + 1e-4 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        return (tested @ weight + offset).argmax(1) == truth


def probes(model, data):
    """Accuracy of the first 1 to K tokens."""
    pictures, classes, test, truth = data
    learned, tested = (tokens_of(model, x) for x in (pictures[:PROBED], test))
    return [
        float(
            probe(
                learned[:, :k].flatten(1),
                classes[:PROBED],
                tested[:, :k].flatten(1),
                truth,
            )
            .float()
            .mean()
        )
        for k in range(1, learned.shape[1] + 1)
    ]


def measure(models, principal, data):
    """All numbers, by name."""
    test = data[2]
    methods = {"PCA": principal, **models}
    by_picture = {name: mean_errors(model, test) for name, model in methods.items()}
    gains = {
        name: by_picture["PCA"] - by_picture[name]
        for name in ("nested-flow", "nested-regression")
    }
    losses = prefix_losses(models["nested-flow"], test)
    width = 1.96 / len(test) ** 0.5
    return {
        "error of the mean": {
            name: [round(float(v), 5) for v in rows.double().mean(1)]
            for name, rows in by_picture.items()
        },
        "error of a drawn picture": {
            name: drawn_errors(models[name], test[:DRAWN])
            for name in ("nested-flow", "plain-flow")
        },
        "below PCA by": {name: rows.mean(1).tolist() for name, rows in gains.items()},
        "95 % half width": {
            name: (width * rows.std(1)).tolist() for name, rows in gains.items()
        },
        "prefix losses": losses.tolist(),
        "explained variance": explained_variance(losses).tolist(),
        "probe": {
            name: probes(methods[name], data)
            for name in ("PCA", "nested-flow", "plain-flow")
        },
    }


def table(found):
    count = len(found["prefix losses"])
    head = f"| | {' | '.join(map(str, range(count)))} |\n|---|{'---|' * count}\n"

    def row(name, values, form="{:.4f}"):
        blank = [""] * (count - len(values))
        return f"| {' | '.join([name, *blank, *map(form.format, values)])} |\n"

    text = "Mean picture, squared error of pixels in [0, 1], by number of tokens:\n\n"
    text += head
    for name, values in found["error of the mean"].items():
        text += row(name, values)
    for name, values in found["below PCA by"].items():
        text += row(f"PCA - {name}, paired", values)
        text += row("95 % half width", found["95 % half width"][name])
    text += f"\nA drawn picture, the same error, first {DRAWN} test pictures:\n\n{head}"
    for name, values in found["error of a drawn picture"].items():
        text += row(name, values)
    text += f"\nExplained variance of the flow's loss, nested-flow:\n\n{head}"
    text += row("EV(k)", found["explained variance"], "{:.3f}")
    text += f"\nLinear probe, test accuracy:\n\n{head}"
    for name, values in found["probe"].items():
        text += row(name, values, "{:.3f}")
    return text


def curves(found, file):
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    looks = {"PCA": "k--", "nested": "C0", "plain": "C3"}
    for name, values in found["error of the mean"].items():
        look = looks[name.split("-")[0]] + (":" if "regression" in name else "")
        left.plot(values, look, marker=".", label=name)
    left.set(
        xlabel="tokens", ylabel="squared error of the mean picture", ylim=(0, 0.125)
    )
    for name, values in found["probe"].items():
        look = looks[name.split("-")[0]]
        right.plot(range(1, len(values) + 1), values, look, marker=".", label=name)
    right.set(xlabel="tokens", ylabel="linear probe, test accuracy", ylim=(0.45, 0.85))
    left.legend(fontsize=8)
    right.legend(fontsize=8)
    figure.savefig(file, dpi=130)


def prefixes(model, plain, principal, pictures, file):
    """Rows of pictures: the original, then each prefix, in four ways."""
    rows = [("picture", pictures)]
    with torch.no_grad():
        for title, one, how in (
            ("PCA", principal, "predict_mean"),
            ("plain, mean", plain, "predict_mean"),
            ("nested, mean", model, "predict_mean"),
            ("nested, drawn", model, "decode"),
        ):
            tokens = tokens_of(one, pictures)
            rows += [(f"{title}, {k}", getattr(one, how)(tokens[:, :k])) for k in SHOWN]
    figure = Figure(figsize=(6.4, 0.52 * len(rows)))
    figure.subplots_adjust(left=0.2, right=0.99, top=0.995, bottom=0.005, hspace=0.1)
    for (title, row), ax in zip(rows, figure.subplots(len(rows), 1), strict=True):
        strip = np.concatenate(list(row[:, 0].clamp(-1, 1).numpy()), 1)
        ax.imshow(strip, cmap="gray", vmin=-1, vmax=1, aspect="auto")
        ax.set(xticks=[], yticks=[])
        ax.set_ylabel(title, rotation=0, ha="right", va="center", fontsize=8)
    figure.savefig(file, dpi=130)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--out", type=Path, default=Path("out/nested"))
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--use",
        action="append",
        default=[],
        metavar="RUN=FILE",
        help="take the weights of a run from a file instead of training it",
    )
    args = parser.parse_args()
    args.use = {name: Path(file) for name, file in (u.split("=") for u in args.use)}
    torch.set_num_threads(args.threads)
    (args.out / "runs").mkdir(parents=True, exist_ok=True)
    data = *load(args.data, "train"), *load(args.data, "t10k")
    models = {name: trained(name, data[0], args) for name in RUNS}
    config = models["nested-flow"].config
    principal = Principal(data[0], config.tokens, config.channels)
    found = {**measure(models, principal, data), "steps": args.steps, "seed": args.seed}
    (args.out / "nested.json").write_text(json.dumps(found, indent=1) + "\n")
    (args.out / "nested.md").write_text(table(found))
    curves(found, args.out / "nested.png")
    chosen = torch.stack([data[2][data[3] == c][0] for c in range(CLASSES)])
    flow = models["nested-flow"], models["plain-flow"]
    prefixes(*flow, principal, chosen, args.out / "nested-prefixes.png")
    print((args.out / "nested.md").read_text())


if __name__ == "__main__":
    main()
