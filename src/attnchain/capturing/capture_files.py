"""A capture as one file of safetensors, and back."""

import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from attnchain.capturing.dense_records import DenseRecord
from attnchain.capturing.grid import TokenGrid
from attnchain.capturing.recording import Copier, Recording
from attnchain.capturing.records import AbstractRecord, AttentionRecord
from attnchain.capturing.sites import AttentionSite, Choice
from attnchain.capturing.token_layout import Layout
from attnchain.errors import CaptureError
from attnchain.files import check_new, write_whole

FORMAT = "attnchain capture 1"
OPTIONAL = {"AttentionRecord": ("mask",), "DenseRecord": ("tokens",)}
NEEDED = {"AttentionRecord": ("q", "k"), "DenseRecord": ("matrix",)}


def save_recording(recording: Recording, path: str | os.PathLike[str]) -> Path:
    """Write a recording as one new file; see `CapturedAttention.save`."""
    from safetensors.torch import save

    file = Path(path)
    check_new(file)
    tensors: dict[str, Tensor] = {}
    names: dict[int, str] = {}
    records = [
        _written(record, number, tensors, names)
        for number, record in enumerate(recording.records)
    ]
    counts = recording.counts
    layers = [[*key, number] for key, number in counts.layers.items()]
    about = {
        "records": records,
        "layers": layers,
        "passes": dict(counts.passes),
        "steps": counts.n_steps,
    }
    metadata = {"format": FORMAT, "about": json.dumps(about)}
    write_whole(file, save(tensors, metadata=metadata))
    return file


def read_recording(path: str | os.PathLike[str]) -> Recording:
    """Read what `save_recording` wrote.

    Raises:
        CaptureError: There is no such file, or it is no capture.
    """
    import safetensors

    open_file: Any = safetensors.safe_open

    try:
        with open_file(Path(path), "pt") as stream:
            metadata: dict[str, str] = stream.metadata() or {}
            if metadata.get("format") != FORMAT:
                message = f"{path} holds no capture of attention ({FORMAT!r})"
                raise CaptureError(message)
            about = json.loads(metadata["about"])
            names: list[str] = list(stream.keys())
            tensors = {name: stream.get_tensor(name) for name in names}
        return _restored(about, tensors)
    except (
        OSError,
        safetensors.SafetensorError,
        ValueError,
        LookupError,
        TypeError,
    ) as error:
        if isinstance(error, CaptureError):
            raise
        message = f"{path} cannot be read as a capture ({error})"
        raise CaptureError(message) from error


def _restored(about: dict[str, Any], tensors: dict[str, Tensor]) -> Recording:
    recording = Recording(Choice(), Copier("qk", None), math.inf)
    recording.records.extend(_read(entry, tensors) for entry in about["records"])
    counts = recording.counts
    counts.layers.update(
        {(name, run, kind): number for name, run, kind, number in about["layers"]}
    )
    counts.passes.update(about["passes"])
    counts.n_steps = about["steps"]
    return recording


def _written(
    record: AbstractRecord,
    number: int,
    tensors: dict[str, Tensor],
    names: dict[int, str],
) -> dict[str, Any]:
    """A record without its tensors, which go to the file once each."""
    if record.trace is not None:
        message = (
            "a capture with gradients=True is part of a running graph and cannot be "
            "saved; capture without gradients"
        )
        raise CaptureError(message)
    kind = type(record).__name__
    entry: dict[str, Any] = {
        "kind": kind,
        "site": asdict(record.site),
        "causal": record.causal,
        "queries": _grid(record.layout.queries),
        "keys": _grid(record.layout.keys),
    }
    if isinstance(record, AttentionRecord):
        entry["scale"] = record.scale
    for part in (*NEEDED[kind], *OPTIONAL[kind]):
        tensor: Tensor | None = getattr(record, part)
        if tensor is None:
            continue
        name = names.setdefault(id(tensor), f"{number}.{part}")
        tensors[name] = tensor.detach().contiguous()
        entry[part] = name
    return entry


def _read(entry: dict[str, Any], tensors: dict[str, Tensor]) -> AbstractRecord:
    kind = entry["kind"]
    parts = {
        part: tensors[entry[part]]
        for part in (*NEEDED[kind], *OPTIONAL[kind])
        if part in entry
    }
    common: dict[str, Any] = {
        "causal": entry["causal"],
        "layout": Layout(_grid_of(entry["queries"]), _grid_of(entry["keys"])),
    }
    site = AttentionSite(**entry["site"])
    if kind == "AttentionRecord":
        return AttentionRecord(site, scale=entry["scale"], **parts, **common)
    return DenseRecord(site, **parts, **common)


def _grid(grid: TokenGrid | str) -> dict[str, Any] | str:
    if isinstance(grid, str):
        return grid
    text = [grid.text.start, grid.text.stop]
    return {**vars(grid), "text": text, "more": [_grid(one) for one in grid.more]}


def _grid_of(entry: Any) -> Any:
    """A grid, or why there is none."""
    if isinstance(entry, str):
        return entry
    pairs = ("windows", "shift", "size", "places")
    tuples = {name: tuple(entry[name]) for name in pairs if entry.get(name) is not None}
    more = tuple(_grid_of(one) for one in entry["more"])
    parts: dict[str, Any] = {**entry, **tuples, "more": more}
    parts["text"] = range(*entry["text"])
    return TokenGrid(**parts)
