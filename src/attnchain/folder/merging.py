"""The COCO files of many pictures as one."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def merged_coco(files: Iterable[tuple[Path, str]]) -> dict[str, Any]:
    """One dictionary in COCO's format from those of several pictures.

    Args:
        files: JSON files of one picture each, and what the picture shall be called.

    Returns:
        Images and annotations counted from 1; equal names are one category.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    categories: dict[str, int] = {}
    for number, (file, name) in enumerate(files, 1):
        one = json.loads(file.read_text("utf-8"))
        images.append({**one["images"][0], "id": number, "file_name": name})
        names = {c["id"]: c["name"] for c in one["categories"]}
        for found in names.values():
            categories.setdefault(found, len(categories) + 1)
        for annotation in one["annotations"]:
            category = categories[names[annotation["category_id"]]]
            changed = {"image_id": number, "category_id": category}
            annotations.append({**annotation, **changed, "id": len(annotations) + 1})
    known = [{"id": number, "name": name} for name, number in categories.items()]
    return {"images": images, "annotations": annotations, "categories": known}
