"""Fits the probe of objectness that comes with the packaged model, and its two halves.

    python benchmarks/vision/object_probe.py COCO_MINI COCO128 OUT

COCO_MINI holds `annotations/instances_train2017.json` and `train2017/`, COCO128
`images/` and `masks/` (0 beside all objects). Every annotated instance is object,
crowds count for nothing. OUT gets `whole.safetensors`, which is the file that the
package holds, and `half0` and `half1`, fitted on every second picture: a picture of
COCO is evaluated with the half it is not in.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pycocotools.coco import COCO

from attnchain.models import load, read_picture
from attnchain.vision import fit_probe
from attnchain.vision.probing import UNKNOWN

LAYERS = (6, 9, 11)
NOTE = (
    "A linear probe fitted on the instance masks of {count} pictures of COCO train2017 "
    "(annotations CC BY 4.0)."
)


def of_coco(folder):
    """Pictures and masks from COCO's JSON."""
    file = next((folder / "annotations").glob("instances_*.json"))
    coco = COCO(str(file))
    for image in sorted(coco.dataset["images"], key=lambda image: image["file_name"]):
        mask = np.zeros((image["height"], image["width"]), np.uint8)
        for instance in coco.imgToAnns[image["id"]]:
            crowd = instance.get("iscrowd", 0)
            mask[coco.annToMask(instance) > 0] = UNKNOWN if crowd else 1
        yield folder / file.stem.split("_")[1] / image["file_name"], mask


def of_masks(folder):
    """Pictures and masks from two folders of files of the same names."""
    for path in sorted((folder / "images").iterdir()):
        mask = np.array(Image.open(folder / "masks" / f"{path.stem}.png"))
        yield path, (mask > 0).astype(np.uint8)


def fitted(model, examples):
    read = ((read_picture(path), torch.from_numpy(mask)) for path, mask in examples)
    note = NOTE.format(count=len(examples))
    return fit_probe(model, read, layers=LAYERS, note=note)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("coco_mini", "coco128", "out"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    examples = [*of_coco(args.coco_mini), *of_masks(args.coco128)]
    args.out.mkdir(parents=True, exist_ok=True)
    model = load()
    parts = {"whole": examples, "half0": examples[::2], "half1": examples[1::2]}
    for name, part in parts.items():
        fitted(model, part).save(args.out / f"{name}.safetensors")
        print(name, len(part), flush=True)


if __name__ == "__main__":
    main()
