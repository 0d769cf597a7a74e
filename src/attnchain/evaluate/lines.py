"""Results as JSON lines that survive a killed run."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from attnchain.errors import DataSetError, OutputError

Record = dict[str, Any]


class Lines:
    """A file of one JSON object in each line: settings first, then one per picture.

    Every line is on the disk before the next picture is begun. A last line cut off by
    a killed run is dropped, so at most one picture is lost. Use it as a context
    manager.

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
        self._file.truncate(len(whole) + 1 if whole else 0)
        if not lines:
            self._write(self.settings)
        elif lines[0] != self.settings:
            raise DataSetError(
                f"{self.path} holds results of other settings; remove it, or choose "
                f"another --out"
            )
        self.records = {line["picture"]: line for line in lines[1:]}

    def _parsed(self, whole: bytes) -> Iterator[Record]:
        for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
            try:
                yield json.loads(line)
            except ValueError as error:
                message = f"{self.path}, line {number} is damaged; remove the line"
                raise DataSetError(message) from error

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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
