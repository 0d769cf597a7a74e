"""Runs a protocol over a data set, picture by picture."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnchain.errors import DataSetError
from attnchain.evaluate.datasets import DataSet
from attnchain.evaluate.lines import Lines, Record
from attnchain.evaluate.protocol import FAILURES, Protocol, reason


@dataclass(frozen=True, eq=False)
class Run:
    """What a run gave.

    Attributes:
        records: Results of the pictures that could be scored.
        broken: Why the others could not, by name.
        marked: Names of the half on which settings are chosen: of the sorted names
            the first, third, fifth, ...
        total: Pictures in the data set.
    """

    records: list[Record]
    broken: dict[str, str]
    marked: set[str]
    total: int


def run(
    data_set: DataSet,
    protocol: Protocol,
    file: Path,
    *,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Run:
    """Scores the pictures of a data set; continues a run that was killed.

    Args:
        data_set: Pictures and labels.
        protocol: How to score.
        file: JSON lines, one for each picture, written as they come.
        limit: Score only this many pictures, spread evenly over the sorted names.
        progress: Called with the number of pictures done and to do.

    Returns:
        `Run`. A picture that cannot be read or scored is recorded and skipped.

    Raises:
        DataSetError: The protocol needs other labels, or the file belongs to other
            settings.
        OutputError: The file cannot be written.
    """
    if data_set.kind not in protocol.kinds:
        raise DataSetError(
            f"the protocol {protocol.name!r} needs labels of kind "
            f"{' or '.join(protocol.kinds)}, but {type(data_set).__name__} has "
            f"{data_set.kind}"
        )
    names = spread(data_set.names, limit)
    settings = {"data_set": type(data_set).__name__, **protocol.settings}
    with Lines(file, settings) as lines:
        for done, name in enumerate(names):
            if progress:
                progress(done, len(names))
            if name not in lines.records:
                lines.add({"picture": name, **_attempt(data_set, protocol, name)})
        found = [lines.records[name] for name in names]
    return Run(
        records=[record for record in found if "error" not in record],
        broken={r["picture"]: r["error"] for r in found if "error" in r},
        marked=set(data_set.names[::2]),
        total=len(data_set.names),
    )


def spread(names: tuple[str, ...], limit: int | None) -> tuple[str, ...]:
    """At most so many names, spread evenly; both halves are drawn from.

    Example:
        >>> spread(("a", "b", "c", "d", "e", "f"), 4)
        ('a', 'b', 'e', 'f')
    """
    if limit is None or limit >= len(names):
        return names
    if limit < 1:
        raise DataSetError(f"limit must be at least 1, but is {limit}")
    pairs = [names[i : i + 2] for i in range(0, len(names), 2)]
    wanted = -(-limit // 2)
    steps = [round(i * (len(pairs) - 1) / max(wanted - 1, 1)) for i in range(wanted)]
    return tuple(name for step in steps for name in pairs[step])[:limit]


def _attempt(data_set: DataSet, protocol: Protocol, name: str) -> dict[str, Any]:
    try:
        picture, truth = data_set.picture(name), data_set.truth(name)
        size = (picture.height, picture.width)
        if tuple(truth.shape[1:]) != size:
            return {"error": f"labels of shape {tuple(truth.shape[1:])} for {size}"}
        return {"scores": protocol.scores(picture, truth)}
    except FAILURES as error:
        return {"error": reason(error)}
