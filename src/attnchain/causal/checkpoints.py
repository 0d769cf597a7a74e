"""The file a run is kept in between sessions."""

import io
import json
import math
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from attnchain.causal.scores import Score
from attnchain.errors import ArgumentError
from attnchain.files import write_whole

_UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile)


def write_run(
    path: Path, settings: dict[str, Any], rows: dict[str, np.ndarray]
) -> None:
    """Writes settings and the rows of a path; the file appears whole or not at all."""
    content = io.BytesIO()
    written = np.array(json.dumps(settings, default=_plain))
    np.savez(content, allow_pickle=False, settings=written, **rows)
    write_whole(path, content.getvalue())


def read_run(path: Path) -> dict[str, np.ndarray]:
    """What `write_run` wrote, or an ArgumentError."""
    names = ("settings", "graphs", "log_holding", "changes")
    try:
        with path.open("rb") as stream, np.load(stream) as file:
            return {name: file[name] for name in names}
    except _UNREADABLE as error:
        message = f"{path} holds no run that can be taken up: {error}"
        raise ArgumentError(message) from error


def restored(state: dict[str, Any]) -> np.random.Generator:
    """The generator that had this state."""
    generator = getattr(np.random, state["bit_generator"])()
    generator.state = state
    return np.random.Generator(generator)


def _plain(value: Any) -> Any:
    return value.tolist()


def fingerprint(score: Score) -> list[Any]:
    """Tells targets apart: names, and the nodes' scores without and with a parent."""
    n = len(score.names)
    alone = math.fsum(score.local(v, 0) for v in range(n))
    chain = math.fsum(score.local(v, 1 << (v - 1)) for v in range(1, n))
    return [list(score.names), alone, chain]
