"""A segmentation in the forms that other programs read."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from jaxtyping import Bool
from torch import Tensor

from attnchain.errors import ArgumentError
from attnchain.files import Outputs
from attnchain.optional import require
from attnchain.plot import save_figure, save_labels, save_map, tinted

if TYPE_CHECKING:
    from PIL.Image import Image

    from attnchain.vision.segmentation import Segmentation

Ring = list[tuple[float, float]]
"""Corners (x, y) in pixels of the picture; the first pixel spans 0 to 1."""

REST = "rest"
"""The name of what is no segment by itself."""


@dataclass(frozen=True)
class Export:
    """One form of a segmentation.

    Attributes:
        ending: Of the file's name, after the picture's.
        write: Writes it among the outputs.
    """

    ending: str
    write: Callable[["Segmentation", Outputs], None]


def polygons(mask: Bool[Tensor, "height width"]) -> list[list[Ring]]:
    """The borders of a mask as polygons, each an outer ring and its holes.

    The centre of a pixel lies inside, by the even-odd rule, exactly where the mask
    holds the pixel.

    Args:
        mask: The pixels of one segment.
    """
    from contourpy import FillType, contour_generator

    rows, columns = (mask.any(axis).nonzero()[:, 0] for axis in (1, 0))
    if not len(rows):
        return []
    top, left = int(rows[0]), int(columns[0])
    inside = mask[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1]
    level = np.pad(inside.cpu().numpy().astype(np.float32), 1)
    lines = contour_generator(z=level, fill_type=FillType.OuterOffset)
    points, offsets = cast("tuple[list[Any], list[Any]]", lines.filled(0.5, 1.5))
    shift = np.array([left - 0.5, top - 0.5])
    return [
        [
            [(float(x), float(y)) for x, y in ring[:-1] + shift]
            for ring in np.split(corners, starts[1:-1])
        ]
        for corners, starts in zip(points, offsets, strict=True)
        if corners is not None and starts is not None
    ]


def cutout(result: "Segmentation") -> "Image":
    """The picture where there is an object, transparent where there is none.

    Args:
        result: The object and the rest of a picture.

    Returns:
        A Pillow picture of mode RGBA.

    Raises:
        ArgumentError: Segments share the whole picture, or it is not known.
    """
    from PIL import Image

    if REST not in result.names or result.picture is None:
        message = (
            f"the file 'cutout' goes with one object, but the answer has "
            f"{result.title}: ask for the main object, points or a box, or leave it out"
        )
        raise ArgumentError(message)
    kept = (result.labels != result.names.index(REST)).cpu().numpy()
    picture = result.picture.convert("RGB")
    picture.putalpha(Image.fromarray(kept.astype(np.uint8) * 255))
    return picture


def coco(result: "Segmentation", *, image_id: int, file_name: str) -> dict[str, Any]:
    """A segmentation as COCO's dictionary, see `Segmentation.to_coco`."""
    masks = require("pycocotools.mask", extra="coco", feature="COCO JSON with RLE")
    height, width = result.labels.shape
    image = {"id": image_id, "file_name": file_name, "width": width, "height": height}
    named = [(i, name) for i, name in enumerate(result.names, 1) if name != REST]
    annotations: list[dict[str, Any]] = []
    for category, name in named:
        for instance in result.instances(name).cpu().numpy():
            lengths = masks.encode(np.asfortranarray(instance.astype(np.uint8)))
            size, counts = [height, width], lengths["counts"].decode("ascii")
            annotations.append({
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": category,
                "segmentation": {"size": size, "counts": counts},
                "area": int(instance.sum()),
                "bbox": masks.toBbox(lengths).tolist(),
                "iscrowd": 0,
            })  # fmt: skip
    categories = [{"id": category, "name": name} for category, name in named]
    return {"images": [image], "annotations": annotations, "categories": categories}


def check_exports(names: Iterable[str]) -> None:
    """What is no name of a file is said before the work.

    Args:
        names: Forms asked for, see `EXPORTS`.

    Raises:
        ArgumentError: A form that nobody knows.
    """
    for name in names:
        if name not in EXPORTS:
            message = f"no file is called {name!r}; there are {', '.join(EXPORTS)}"
            raise ArgumentError(message)


def write_exports(
    result: "Segmentation", outputs: Outputs, names: Sequence[str]
) -> None:
    """Writes the forms asked for.

    Raises:
        ArgumentError: A form is unknown, or does not fit what was asked.
        MissingExtraError: COCO JSON needs the package pycocotools.
    """
    check_exports(names)
    for name in names:
        EXPORTS[name].write(result, outputs)


def _labels(result: "Segmentation", outputs: Outputs) -> None:
    save_labels(result.labels, outputs.path("-segments.png"))


def _figure(result: "Segmentation", outputs: Outputs) -> None:
    save_figure(result.plot(), outputs.path("-figure.png"))


def _map(result: "Segmentation", outputs: Outputs) -> None:
    if result.soft_map is None:
        message = (
            f"the file 'map' goes with one object, but the answer has {result.title}: "
            "ask for the main object or a point, or leave it out"
        )
        raise ArgumentError(message)
    save_map(result.soft_map, outputs.path("-map.png"))


def _cutout(result: "Segmentation", outputs: Outputs) -> None:
    cutout(result).save(outputs.path("-cutout.png"))


def _overlay(result: "Segmentation", outputs: Outputs) -> None:
    clear = result.names.index(REST) if REST in result.names else None
    drawn = tinted(result.labels, result.picture, clear=clear)
    drawn.save(outputs.path("-overlay.png"))


def _polygons(result: "Segmentation", outputs: Outputs) -> None:
    height, width = result.labels.shape
    found = [
        {"name": name, "polygons": polygons(result.mask(name))}
        for name in result.names
        if name != REST
    ]
    payload = {"width": width, "height": height, "segments": found}
    outputs.write_json("-polygons.json", payload)


def _coco(result: "Segmentation", outputs: Outputs) -> None:
    found = coco(result, image_id=1, file_name=outputs.source)
    outputs.write_json("-coco.json", found)


EXPORTS = {
    "labels": Export("-segments.png", _labels),
    "figure": Export("-figure.png", _figure),
    "map": Export("-map.png", _map),
    "cutout": Export("-cutout.png", _cutout),
    "overlay": Export("-overlay.png", _overlay),
    "polygons": Export("-polygons.json", _polygons),
    "coco": Export("-coco.json", _coco),
}
"""The files that can be asked for, by name."""
