"""A file of marks: what people pointed at in each picture."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from attnchain.errors import ArgumentError
from attnchain.folder.finding import Picture
from attnchain.vision import Prompt

COLUMNS = ("picture", "points", "not_points", "box", "order")


def read_marks(file: Path) -> dict[str, Prompt]:
    """Reads the marks of many pictures from CSV or JSON.

    CSV has a line for each picture under the heading
    `picture,points,not_points,box,order`; a point is `x y`, several are separated by
    `;`, a box is `x0 y0 x1 y1`, and an order such as `+-+` as in `Prompt`. Columns but
    the first may be absent or empty. JSON is a list of such records, with points
    as `[[x, y], ...]` and the box as `[x0, y0, x1, y1]`. All in pixels.

    Args:
        file: Ends in .csv or .json.

    Returns:
        From the picture's name in the file to its marks.

    Raises:
        ArgumentError: The file cannot be read, or a line is not as said above.
    """
    try:
        text = file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(f"the marks {file} cannot be read ({error})") from error
    records = _from_json if file.suffix.lower() == ".json" else _from_csv
    marks: dict[str, Prompt] = {}
    for where, record in records(text, file):
        name, prompt = _prompt(record, where)
        if name in marks:
            message = f"{where}: {name} has marks already; keep one line for a picture"
            raise ArgumentError(message)
        marks[name] = prompt
    return marks


def match_marks(
    marks: Mapping[str, Prompt], pictures: Iterable[Picture]
) -> tuple[dict[Picture, Prompt], list[str]]:
    """Finds the picture of every line of marks.

    A name is a path from here, from the folder that holds all pictures, or the mere
    file name where only one picture has it.

    Args:
        marks: Marks by name, from `read_marks`.
        pictures: The pictures, from `find_pictures`.

    Returns:
        Marks by picture, and the names that fit no picture, or several.

    Raises:
        ArgumentError: Two names fit the same picture.
    """
    by_name: dict[str, set[Picture]] = {}
    for picture in pictures:
        path, place = picture.path, picture.place
        for name in {str(path), str(path.absolute()), place.as_posix(), path.name}:
            by_name.setdefault(name, set()).add(picture)
    found: dict[Picture, Prompt] = {}
    lost: list[str] = []
    for name, prompt in marks.items():
        fitting = by_name.get(name, set())
        exact = {p for p in fitting if name in {str(p.path), p.place.as_posix()}}
        fitting = exact or fitting
        if len(fitting) != 1:
            lost.append(name)
            continue
        picture = fitting.pop()
        if picture in found:
            message = f"{name}: {picture.path} has marks already; keep one line for it"
            raise ArgumentError(message)
        found[picture] = prompt
    return found, lost


Record = tuple[str, Mapping[str, Any]]


def _from_csv(text: str, file: Path) -> Iterator[Record]:
    lines = csv.DictReader(text.splitlines(), strict=True)
    if lines.fieldnames is None or not {"picture"} <= {*lines.fieldnames} <= {*COLUMNS}:
        message = (
            f"{file}: the first line must be {','.join(COLUMNS)} (all but the first "
            f"may be left out), but is {','.join(lines.fieldnames or [])!r}"
        )
        raise ArgumentError(message)
    try:
        for line in lines:
            where = f"{file}, line {lines.line_num}"
            if None in line:
                raise ArgumentError(f"{where}: more fields than the first line names")
            yield (
                where,
                {
                    "picture": line["picture"],
                    "points": _split(line.get("points")),
                    "not_points": _split(line.get("not_points")),
                    "box": (line.get("box") or "").split() or None,
                    "order": (line.get("order") or "").strip(),
                },
            )
    except csv.Error as error:
        raise ArgumentError(f"{file}, line {lines.line_num}: {error}") from error


def _split(text: str | None) -> list[list[str]]:
    return [point.split() for point in (text or "").split(";") if point.strip()]


def _from_json(text: str, file: Path) -> Iterator[Record]:
    try:
        records = json.loads(text)
    except ValueError as error:
        raise ArgumentError(f"{file} is no JSON ({error})") from error
    if not isinstance(records, list):
        raise ArgumentError(f"{file} must hold a list of records, one for a picture")
    for number, record in enumerate(records, 1):
        where = f"{file}, record {number}"
        if not isinstance(record, dict) or not {"picture"} <= {*record} <= {*COLUMNS}:
            message = f"{where} must be an object with {', '.join(COLUMNS)} only"
            raise ArgumentError(message)
        yield where, record


def _prompt(record: Mapping[str, Any], where: str) -> tuple[str, Prompt]:
    name = record["picture"]
    if not isinstance(name, str) or not name:
        raise ArgumentError(f"{where} names no picture")
    given = {key: record[key] for key in COLUMNS[1:] if record.get(key)}
    try:
        return name, Prompt(**given)
    except (ArgumentError, TypeError) as error:
        raise ArgumentError(f"{where}: {error}") from error
