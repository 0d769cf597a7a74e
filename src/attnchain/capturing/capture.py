"""The context manager that reads attention from a running model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Unpack

import torch
from torch import nn

from attnchain.capturing.recorder import GivenGrid, Recorder, Watch
from attnchain.capturing.result import CapturedAttention
from attnchain.capturing.seen import Copier, Keep
from attnchain.capturing.shelf import Shelf
from attnchain.capturing.site import Choice, Numbers, Selection
from attnchain.errors import NothingCapturedError

DEFAULT_BUDGET = 8 * 2**30


@contextmanager
def capture(
    model: nn.Module,
    *,
    layers: Numbers = None,
    keep: Keep = "qk",
    max_bytes: int = DEFAULT_BUDGET,
    device: torch.device | str | None = None,
    grid: GivenGrid = None,
    **selection: Unpack[Selection],
) -> Iterator[CapturedAttention]:
    """Reads the attention of a model while it runs inside the `with` block."""
    result = CapturedAttention()
    shelf = Shelf(result, Choice.of(layers, **selection), max_bytes)
    recorder = Recorder(model, shelf, Copier(keep, device), grid)
    with recorder.following(), Watch(recorder):
        yield result
    shelf.close()
    if not result.n_layers:
        raise NothingCapturedError("nothing")
