"""Numbers of heads and tokens as one long table."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from attnchain.capturing.records import AbstractRecord
from attnchain.errors import ArgumentError, ShapeError
from attnchain.operators import AbstractTransition

Statistic = Callable[[AbstractTransition], Tensor]
Statistics = Sequence[Statistic] | Mapping[str, Statistic]


def long_table(
    records: Iterable[AbstractRecord], statistics: Statistics
) -> dict[str, np.ndarray]:
    """Columns of equal length; see `CapturedAttention.table`."""
    named = _named(statistics)
    parts = [(record, _values(record, named)) for record in records]
    by_token = any(values.ndim == 3 for _, found in parts for values in found.values())
    columns: dict[str, list[np.ndarray]] = {}
    for record, found in parts:
        for name, column in _rows(record, found, by_token=by_token).items():
            columns.setdefault(name, []).append(column)
    return {name: np.concatenate(column) for name, column in columns.items()}


def _named(statistics: Statistics) -> dict[str, Statistic]:
    """Functions by the names of their columns."""
    if not isinstance(statistics, Mapping):
        given = list(statistics)
        statistics = {getattr(f, "__name__", "<lambda>"): f for f in given}
        if len(statistics) < len(given) or "<lambda>" in statistics:
            message = (
                "two functions have one name, or one is a lambda; give a dictionary of "
                "functions by the names of their columns"
            )
            raise ArgumentError(message)
    taken = {"layer", "input", "head", "token"}.intersection(statistics)
    if not statistics or taken:
        message = (
            f"statistics must be functions by name, but {taken or 'none'} is given"
        )
        raise ArgumentError(message)
    return dict(statistics)


def _values(
    record: AbstractRecord, named: Mapping[str, Statistic]
) -> dict[str, Tensor]:
    """Each function's numbers, (inputs, heads) or (inputs, heads, n)."""
    chain = record.transition()
    found = {
        name: torch.as_tensor(f(chain)).detach().cpu() for name, f in named.items()
    }
    fitting = (tuple(chain.batch_shape), (*chain.batch_shape, chain.n_states))
    for name, values in found.items():
        if tuple(values.shape) not in fitting:
            message = (
                f"{name} gave {tuple(values.shape)} for {record.site}, but a table "
                f"holds one number for each head, {fitting[0]}, or token, {fitting[1]}"
            )
            raise ShapeError(message)
    return found


def _rows(
    record: AbstractRecord, found: Mapping[str, Tensor], *, by_token: bool
) -> dict[str, np.ndarray]:
    """The columns of one layer; padding has no rows."""
    inputs, heads = record.shape[:2]
    shape = (inputs, heads, record.shape[-1]) if by_token else (inputs, heads)
    live = torch.ones(shape, dtype=torch.bool)
    if by_token:
        live = record.live.cpu()[:, None].expand(shape)
    places = live.nonzero().T.numpy()
    columns = {"layer": np.full(places.shape[1], record.site.layer)}
    columns |= dict(zip(("input", "head", "token"), places, strict=False))
    for name, values in found.items():
        wide = values[..., None] if values.ndim < live.ndim else values
        columns[name] = wide.expand(shape)[live].numpy()
    return columns
