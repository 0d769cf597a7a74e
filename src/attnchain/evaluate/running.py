"""Runs a protocol over a data set, picture by picture, in a file that outlives it."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from attnchain.errors import DataSetError, OutputError
from attnchain.evaluate.datasets import DataSet
from attnchain.evaluate.protocol import FAILURES, Protocol, reason
from attnchain.evaluate.report import Record, Results


@dataclass(frozen=True, eq=False)
class Run:
    """What a run gave.

    Attributes:
        results: Results of the pictures that could be scored. Settings are chosen on
            the first, third, fifth, ... of the sorted names of the data set.
        broken: Why the others could not, by name.
        total: Pictures in the data set.
        notes: Sentences on files of the data set that were left out.
    """

    results: Results
    broken: dict[str, str]
    total: int
    notes: tuple[str, ...]


def run(
    data_set: DataSet,
    protocol: Protocol,
    file: Path,
    *,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Run:
    """Scores the pictures of a data set; continues a run that was killed.

    A picture is scored again where it or its labels are not those of the file.

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
            f"{' or '.join(protocol.kinds)}, but {data_set.title} has {data_set.kind}"
        )
    names = spread(data_set.names, limit)
    told = progress or (lambda *_: None)
    with Journal(file, {"data_set": data_set.title, **protocol.settings}) as journal:
        for done, name in enumerate(names):
            told(done, len(names))
            _score(journal, data_set, protocol, name)
        told(len(names), len(names))
        found = [journal.records[name] for name in names]
    scored = [record for record in found if "error" not in record]
    return Run(
        results=Results(scored, set(data_set.names[::2])),
        broken={r["picture"]: r["error"] for r in found if "error" in r},
        total=len(data_set.names),
        notes=data_set.notes,
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


def _score(
    journal: "Journal", data_set: DataSet, protocol: Protocol, name: str
) -> None:
    """Scores a picture unless the journal holds its scores by the same bytes."""
    digest = data_set.digest(name)
    known = journal.records.get(name, {})
    if digest is None or known.get("digest") != digest:
        scores = _attempt(data_set, protocol, name)
        journal.add({"picture": name, "digest": digest, **scores})


def _attempt(data_set: DataSet, protocol: Protocol, name: str) -> dict[str, Any]:
    try:
        picture, truth = data_set.picture(name), data_set.truth(name)
        size, labelled = (picture.height, picture.width), tuple(truth.shape[1:])
        if labelled != size:
            turned = labelled == size[::-1]
            hint = (
                "; one of the two is turned by its EXIF orientation" if turned else ""
            )
            return {"error": f"labels of shape {labelled} for {size}{hint}"}
        return {"scores": protocol.scores(picture, truth)}
    except FAILURES as error:
        return {"error": reason(error)}


class Journal:
    """A file of one JSON object in each line: settings first, then one per picture.

    Every line is on the disk before the next picture is begun. A last line cut off by
    a killed run is dropped, so at most one picture is lost; of two lines for one
    picture the later one holds. Use it as a context manager.

    Args:
        path: The file; continued where it exists.
        settings: What the results depend on; must be those of the file.

    Raises:
        DataSetError: The file belongs to other settings, or is damaged.
        OutputError: The file cannot be written.
    """

    def __init__(self, path: Path, settings: Record) -> None:
        self.path = path
        self.settings = json.loads(json.dumps(settings))
        self.records: dict[str, Record] = {}

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b")
        except OSError as error:
            message = f"cannot write to {self.path}: {error.strerror}; choose --out"
            raise OutputError(message) from error
        try:
            self._take_up()
        except ValueError:
            self._file.close()
            raise
        return self

    def _take_up(self) -> None:
        """Reads what is there; writes the settings where nothing is."""
        self._file.seek(0)
        whole, _, _cut_off = self._file.read().rpartition(b"\n")
        lines = list(self._parsed(whole))
        if lines and lines[0] != self.settings:
            raise DataSetError(
                f"{self.path} holds results of other settings; remove it, or choose "
                f"another --out"
            )
        self._file.truncate(len(whole) + 1 if whole else 0)
        if not lines:
            self._write(self.settings)
        self.records = {line["picture"]: line for line in lines[1:]}

    def _parsed(self, whole: bytes) -> Iterator[Record]:
        for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if not isinstance(record, dict) or (number > 1 and "picture" not in record):
                message = f"{self.path}, line {number} is damaged; remove the line"
                raise DataSetError(message)
            yield record

    def add(self, record: Record) -> None:
        """Writes the results of one picture to the disk.

        Raises:
            OutputError: The disk is full, or the file is gone.
        """
        self._write(record)
        self.records[record["picture"]] = record

    def _write(self, record: Record) -> None:
        try:
            self._file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            message = f"cannot write to {self.path}: {error.strerror}"
            raise OutputError(message) from error

    def __exit__(self, *_: object) -> None:
        self._file.close()
