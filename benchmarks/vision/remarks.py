"""How often what is said of the main object is right: none, one, or several.

    python benchmarks/vision/remarks.py GRABCUT DAVIS results.jsonl [--each 16]

GRABCUT holds `images/` and `masks/` of one object each, DAVIS likewise. Six kinds of
pictures: real ones (one object), blank ones, noise, textures (parts of DAVIS pictures
without their object), and one or two GrabCut objects pasted on such a texture. "No
object" is said where the confidence is below one half, "several" where more than one
region stands out. `--say` only prints what the results hold.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from attnchain.models import load
from attnchain.vision import segment

SIZE = (480, 360)
KINDS = ("real", "blank", "noise", "texture", "one", "two")


def blank(rng):
    return Image.new("RGB", SIZE, tuple(int(c) for c in rng.integers(0, 256, 3)))


def noise(rng):
    """White noise, or noise with a spectrum that falls off like a photograph's."""
    white = rng.normal(size=(SIZE[1], SIZE[0], 3))
    if rng.random() < 0.5:
        rows, columns = np.fft.fftfreq(SIZE[1]), np.fft.fftfreq(SIZE[0])
        radius = np.hypot(rows[:, None], columns)[..., None] + 1 / SIZE[0]
        white = np.fft.ifft2(np.fft.fft2(white, axes=(0, 1)) / radius, axes=(0, 1)).real
    scaled = 128 + 50 * white / white.std()
    return Image.fromarray(scaled.clip(0, 255).astype(np.uint8))


def pair(folder, stem):
    image = next((folder / "images").glob(f"{stem}.*"))
    mask = next((folder / "masks").glob(f"{stem}.*"))
    return Image.open(image).convert("RGB"), np.array(Image.open(mask).convert("L"))


def stems(folder):
    return sorted(file.stem for file in (folder / "images").iterdir())


def texture(rng, davis):
    """A part of a picture, one third as wide, that holds nothing of its object."""
    names = stems(davis)
    while True:
        image, mask = pair(davis, names[rng.integers(len(names))])
        width, height = SIZE[0] // 2, SIZE[1] // 2
        left = int(rng.integers(image.width - width))
        top = int(rng.integers(image.height - height))
        box = (left, top, left + width, top + height)
        if not mask[top : box[3], left : box[2]].any():
            return image.crop(box).resize(SIZE, Image.Resampling.BICUBIC)


def pasted(rng, davis, grabcut, count):
    """Objects side by side, each at most a third of the width."""
    ground, names = texture(rng, davis), stems(grabcut)
    chosen = rng.choice(len(names), count, replace=False)
    for place, number in enumerate(chosen):
        image, mask = pair(grabcut, names[number])
        cut = Image.fromarray((mask == 255).astype(np.uint8) * 255)
        box = cut.getbbox()
        image, cut = image.crop(box), cut.crop(box)
        scale = min(SIZE[0] / 3 / image.width, 0.6 * SIZE[1] / image.height)
        size = tuple(max(1, int(side * scale)) for side in image.size)
        middle = SIZE[0] * (2 * place + 1) / (2 * count)
        at = (int(middle - size[0] / 2), (SIZE[1] - size[1]) // 2)
        ground.paste(image.resize(size), at, cut.resize(size))
    return ground


def made(kind, number, grabcut, davis):
    rng = np.random.default_rng([KINDS.index(kind), number])
    if kind == "real":
        names = stems(grabcut)
        return pair(grabcut, names[rng.integers(len(names))])[0]
    if kind in {"one", "two"}:
        return pasted(rng, davis, grabcut, 1 + (kind == "two"))
    return texture(rng, davis) if kind == "texture" else globals()[kind](rng)


def measure(given):
    model, done = load(), set()
    if given.results.exists():
        lines = given.results.read_text("utf-8").splitlines()
        done = {(r["kind"], r["number"]) for r in map(json.loads, lines)}
    for number in range(given.each):
        for kind in KINDS:
            if (kind, number) in done:
                continue
            picture = made(kind, number, given.grabcut, given.davis)
            record = {"kind": kind, "number": number}
            try:
                found = segment(picture, model=model, foreground=True)
                record |= {"confidence": found.confidence, "objects": found.objects}
                record["notes"] = len(found.attention.notes)
            except ValueError as error:
                record |= {"confidence": 0.0, "objects": 0, "error": str(error)}
            with given.results.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(record) + "\n")


def say(results):
    records = [json.loads(line) for line in results.read_text("utf-8").splitlines()]
    print("kind      pictures  no object  several  mean confidence")
    for kind in KINDS:
        own = [record for record in records if record["kind"] == kind]
        none = np.mean([record["confidence"] < 0.5 for record in own])
        several = np.mean([record["objects"] > 1 for record in own])
        mean = np.mean([record["confidence"] for record in own])
        print(f"{kind:9s} {len(own):8d} {none:10.2f} {several:8.2f} {mean:10.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("grabcut", "davis", "results"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--each", type=int, default=16)
    parser.add_argument("--say", action="store_true")
    given = parser.parse_args()
    if not given.say:
        measure(given)
    say(given.results)


if __name__ == "__main__":
    main()
