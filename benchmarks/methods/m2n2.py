"""M2N2's clicks: Otsu's threshold beside the published search, and the official code.

The same chain (packaged model, layers 10 and 11), pictures and masks at 240 px, IoU
after 1, 2 and 3 clicks that a person would make. What the released code reached on that
chain and the first 16 pictures of each set is quoted from an earlier run of it.

    python benchmarks/methods/m2n2.py --data ../shared/data

Pictures are kept in OUT/runs as they end: a killed benchmark goes on where it stopped.
Writes OUT/m2n2.md, OUT/m2n2.json and OUT/m2n2.png. About 4 minutes on one idle core.
"""

import json
from functools import partial

import numpy as np
from kept import arguments, kept_run, mean_and_width
from matplotlib.figure import Figure
from PIL import Image
from torch.nn.functional import interpolate

from attnchain.evaluate import open_data_set
from attnchain.evaluate.metrics import iou
from attnchain.evaluate.protocols.clicking import Clicked
from attnchain.methods import segment_nearest
from attnchain.models import load
from attnchain.vision import Clicks, read_attention

CLICKS, SIZE, LAYERS = 3, 240, (10, 11)
FIRST = 16
SETS = {"grabcut": "grabcut", "voc99": "voc99-objects"}
WAYS = {
    "Clicks.segment": lambda session: session.segment(),
    "M2N2, Otsu's threshold": segment_nearest,
    "M2N2, searched threshold": partial(segment_nearest, thresholds="searched"),
}
OFFICIAL = {"grabcut": (0.728, 0.802, 0.822), "voc99": (0.563, 0.633, 0.694)}
"""Released code on the first 16 pictures and the same chain, from an earlier run."""


def reached(attention, truth, cut):
    """IoU after each click; every next one where most is wrong."""
    clicks, mask, found = Clicked(), truth.new_zeros(truth.shape).bool(), []
    for _ in range(CLICKS):
        following = clicks.with_next(mask, truth)
        if following is not None:
            clicks = following
            mask = cut(session_of(attention, clicks)).mask("object")
        found.append(iou(mask, truth))
    return found


def session_of(attention, clicks):
    session = Clicks(attention)
    for (row, column), positive in clicks.made:
        session = session.add(column, row, positive=positive)
    return session


def one_picture(data, name, model):
    picture = data.picture(name)
    scale = SIZE / max(picture.size)
    size = [round(length * scale) for length in picture.size]
    small = picture.resize(size, Image.Resampling.BICUBIC)
    truth = interpolate(data.truth(name)[None].double(), size[::-1])[0, 0].long()
    attention = read_attention(small, model, layers=LAYERS, size=SIZE)
    return {way: reached(attention, truth, cut) for way, cut in WAYS.items()}


def table(found):
    lines = [
        "| pictures | method | 1 click | 2 | 3 | to Otsu's after 3 |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in found.items():
        for told, part in (("first", runs[:FIRST]), ("other", runs[FIRST:])):
            place = f"{name}, {told} {len(part)}"
            if told == "first":
                cells = " | ".join(f"{x:.3f}" for x in OFFICIAL[name])
                lines.append(f"| {place} | released code | {cells} | |")
            rows = {way: np.array([run[way] for run in part]) for way in WAYS}
            for way, values in rows.items():
                gain = values[:, -1] - rows["M2N2, Otsu's threshold"][:, -1]
                ahead, width = mean_and_width(gain)
                last = f"{ahead:+.3f} +- {width:.3f}" if gain.any() else ""
                cells = " | ".join(f"{x:.3f}" for x in values.mean(0))
                lines.append(f"| {place} | {way} | {cells} | {last} |")
    return "\n".join(lines) + "\n"


def picture_of(found, file):
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    clicks = range(1, CLICKS + 1)
    for ax, (name, runs) in zip(figure.subplots(1, 2), found.items(), strict=True):
        ax.plot(clicks, OFFICIAL[name], "k--", label=f"released code, first {FIRST}")
        for i, way in enumerate(WAYS):
            values = np.array([run[way] for run in runs])
            first, other = values[:FIRST].mean(0), values[FIRST:].mean(0)
            ax.plot(clicks, first, f"C{i}", marker="o", label=f"{way}, first {FIRST}")
            ax.plot(clicks, other, f"C{i}:", marker="o", label="the others")
        ax.set(title=name, xlabel="clicks", xticks=list(clicks))
    figure.axes[0].set_ylabel("IoU")
    figure.axes[1].legend(fontsize=6.5)
    figure.savefig(file, dpi=110)


def main():
    parser = arguments(__doc__, "m2n2")
    args = parser.parse_args()
    model, found, names = load(), {}, {}
    for name, layout in SETS.items():
        data = open_data_set(layout, args.data / name)
        names[name] = list(data.names)
        found[name] = [
            kept_run(
                args.out / "runs",
                f"{name}-{item}",
                partial(one_picture, data, item, model),
            )
            for item in data.names
        ]
    (args.out / "m2n2.md").write_text(table(found))
    told = {"pictures": names, "IoU after 1, 2, 3 clicks": found}
    (args.out / "m2n2.json").write_text(json.dumps(told, indent=1))
    picture_of(found, args.out / "m2n2.png")
    print((args.out / "m2n2.md").read_text())


if __name__ == "__main__":
    main()
