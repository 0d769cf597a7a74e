"""What a capture hands back: records, and transitions chosen from them."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from typing import Unpack, overload

import numpy as np

from attnchain.capturing.capture_files import read_recording, save_recording
from attnchain.capturing.grid import TokenGrid
from attnchain.capturing.long_table import Statistics, long_table
from attnchain.capturing.recording import Recording, held_bytes
from attnchain.capturing.records import AbstractRecord, Heads
from attnchain.capturing.sites import (
    Choice,
    Kind,
    Numbers,
    Selection,
    described,
    listed,
)
from attnchain.errors import GridError, SiteNotFoundError
from attnchain.operators import AbstractTransition

MOST_SHOWN = 40
NARROWING = {
    "steps": "step",
    "forwards": "forward",
    "branch": "branch",
    "kind": "kind",
    "name": "name",
}


class CapturedAttention:
    """The attention calls seen while a model ran, in order of execution.

    It shows what is recorded, and nothing can be written to it. Records are released
    with it: nothing else keeps them, the model neither.
    """

    def __init__(self, recording: Recording) -> None:
        self._recording = recording

    @property
    def records(self) -> tuple[AbstractRecord, ...]:
        """All records kept, in order of execution."""
        return tuple(self._recording.records)

    @property
    def n_layers(self) -> Counter[Kind]:
        """For each kind of attention, how many layers the model has."""
        return self._recording.counts.n_layers

    @property
    def n_steps(self) -> int:
        """Denoising steps seen; 0 outside a diffusion pipeline."""
        return self._recording.counts.n_steps

    @property
    def n_forwards(self) -> int:
        """Forward passes seen, of the part of the model that ran most often."""
        return max(self._recording.counts.passes.values(), default=0)

    def __len__(self) -> int:
        return len(self._recording.records)

    def __iter__(self) -> Iterator[AbstractRecord]:
        return iter(self.records)

    def __getitem__(self, index: int) -> AbstractRecord:
        return self._recording.records[index]

    def __repr__(self) -> str:
        return f"CapturedAttention({self._existing() or 'empty'})"

    def _repr_html_(self) -> str:
        """Returns a table for notebooks: one line for each record."""
        lines = "".join(
            f"<tr><td>{escape(str(record.site))}</td>"
            f"<td>{' x '.join(map(str, record.shape))}</td></tr>"
            for record in self.records[:MOST_SHOWN]
        )
        left = len(self) - MOST_SHOWN
        more = f"<tr><td>and {left} more</td><td></td></tr>" if left > 0 else ""
        head = "<tr><th>attention</th><th>inputs x heads x queries x keys</th></tr>"
        return f"<table>{head}{lines}{more}</table>"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes all records as one new file of safetensors.

        Args:
            path: The file; it must not be there yet.

        Returns:
            Its path; `attnchain.load_capture` reads it.

        Raises:
            OutputError: It is there already, or cannot be written.
            CaptureError: The capture holds gradients.
        """
        return save_recording(self._recording, path)

    def table(
        self,
        statistics: Statistics,
        layers: Numbers = None,
        **selection: Unpack[Selection],
    ) -> dict[str, np.ndarray]:
        """Returns numbers of every head, or of every token in it, as a long table.

        Args:
            statistics: Functions of a batch of chains `(inputs, heads)`, such as those
                of `attnchain.readouts`: a list, whose columns are named after them, or
                a dictionary by name. Each gives one number for each head or token.
            layers: Layers counted from 0 for each kind of attention; -1 is the last.
            **selection: See `Selection`.

        Returns:
            Columns of equal length by name: layer, input, head, token (where some
            function tells tokens apart; padding has no row) and one for each function.
            `pandas.DataFrame` takes it as it is.

        Raises:
            SiteNotFoundError: Nothing fits.
            ArgumentError: Two functions have one name, or that of another column.
            ShapeError: A function gave numbers of another shape.
        """
        return long_table(self.matching(layers, **selection), statistics)

    @property
    def nbytes(self) -> int:
        """Bytes held by all records; what they share is counted once."""
        return held_bytes(self._recording.records)

    @property
    def grid(self) -> TokenGrid:
        """Token grid shared by all self- and joint-attention records.

        Raises:
            GridError: It is not known, or the records have different ones.
            SiteNotFoundError: There is no such record.
        """
        grids = {record.grid for record in self.matching()}
        if len(grids) > 1:
            message = (
                f"the records have {len(grids)} different token grids; take .grid of "
                f"one record, or capture with resolution=(rows, columns)"
            )
            raise GridError(message)
        return grids.pop()

    def matching(
        self, layers: Numbers = None, **selection: Unpack[Selection]
    ) -> tuple[AbstractRecord, ...]:
        """Returns the records at the chosen sites.

        Args:
            layers: Layers counted from 0 for each kind of attention; -1 is the last.
            **selection: See `Selection`. Attention that is no chain over tokens
                (cross, channel) is left out unless a kind or a name is given.

        Raises:
            SiteNotFoundError: There is none; the message lists what exists.
        """
        choice = Choice.of(layers, **selection)
        chains_only = choice.kind is None and choice.name is None
        found = tuple(
            record
            for record in self.records
            if choice.fits(record.site, self._recording.counts)
            and record.layout.fits_resolution(record.site, choice.resolution)
            and not (chains_only and record.site.kind in ("cross", "channel"))
        )
        if not found:
            message = (
                f"no captured attention fits {str(choice) or 'a chain'}; there is: "
                f"{self._existing(names=choice.name is not None) or 'nothing'}"
            )
            raise SiteNotFoundError(message)
        return found

    @overload
    def select(
        self, layers: int, heads: Heads = None, **selection: Unpack[Selection]
    ) -> AbstractTransition: ...
    @overload
    def select(
        self,
        layers: Iterable[int] | None = None,
        heads: Heads = None,
        **selection: Unpack[Selection],
    ) -> tuple[AbstractTransition, ...]: ...
    def select(
        self,
        layers: Numbers = None,
        heads: Heads = None,
        **selection: Unpack[Selection],
    ) -> AbstractTransition | tuple[AbstractTransition, ...]:
        """Returns the attention at the chosen sites as chains.

        Numbers drop their axis, as in indexing a tensor: `layers=3` gives the one
        transition of that layer and `layers=[3, 4]` or None a tuple, one for each
        record in order of execution; `heads=0` gives batch shape `(pictures,)`,
        `heads=[0, 1]` or None `(pictures, heads)`. Padding is no state of a chain:
        what is asked of it reads 0 there.

        Args:
            layers: Layers counted from 0 for each kind of attention; -1 is the last.
            heads: Heads to take, all by default.
            **selection: See `Selection`. Cross-attention is left out.

        Raises:
            SiteNotFoundError: Nothing fits, or several records fit one layer number.
            ShapeError: A record is no chain (cross-attention).
            ArgumentError: A record has no such head, or a word is not to be chosen by.
        """
        found = self.matching(layers, **selection)
        if layers is None or isinstance(layers, Iterable):
            return tuple(record.transition(heads) for record in found)
        if len(found) > 1:
            sites = [record.site for record in found]
            ways = [
                word
                for word, attribute in NARROWING.items()
                if len({getattr(site, attribute) for site in sites}) > 1
            ]
            narrow = f"Narrow by {' or '.join(ways)}, or ask" if ways else "Ask"
            message = (
                f"{len(found)} records fit layer {layers}: {described(sites)}. "
                f"{narrow} for layers=[{layers}] to get them all"
            )
            raise SiteNotFoundError(message)
        return next(iter(found)).transition(heads)

    def _existing(self, *, names: bool = False) -> str:
        sites = [record.site for record in self.records]
        return listed(s.name or "model" for s in sites) if names else described(sites)


def load_capture(path: str | os.PathLike[str]) -> CapturedAttention:
    """Reads a capture that `CapturedAttention.save` wrote; nothing is unpickled.

    Args:
        path: The file.

    Returns:
        The capture, on the CPU.

    Raises:
        CaptureError: There is no such file, or it is no capture.
    """
    return CapturedAttention(read_recording(path))
