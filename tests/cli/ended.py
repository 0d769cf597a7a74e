"""How a command ended, and what its errors look like."""

import json
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str
    folder: Path

    @property
    def files(self):
        if not os.path.isdir(self.folder):
            return []
        return sorted(path.name for path in self.folder.rglob("*"))

    def json(self, name):
        return json.loads((self.folder / name).read_text("utf-8"))


def assert_one_line(text):
    assert text.startswith("attnchain: ")
    assert text.endswith("\n")
    assert text.count("\n") == 1
    assert "Traceback" not in text
