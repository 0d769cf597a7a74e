"""What a capture hands back: records, and transitions chosen from them."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Unpack, overload

from attnchain.capturing.grid import TokenGrid
from attnchain.capturing.record import AbstractRecord, Heads
from attnchain.capturing.site import Choice, Kind, Numbers, Selection, listed
from attnchain.errors import GridError, SiteNotFoundError
from attnchain.operators import AbstractTransition


class CapturedAttention:
    """The attention calls seen while a model ran, in order of execution.

    Records are released with it: nothing else keeps them, the model neither.

    Attributes:
        n_layers: For each kind of attention, how many sites the model has.
        n_steps: Denoising steps seen; 0 outside a diffusion pipeline.
    """

    def __init__(self, records: list[AbstractRecord] | None = None) -> None:
        self._records = [] if records is None else records
        self.n_layers: Counter[Kind] = Counter()
        self.n_steps = 0

    @property
    def records(self) -> tuple[AbstractRecord, ...]:
        """All records kept, in order of execution."""
        return tuple(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[AbstractRecord]:
        return iter(self._records)

    def __getitem__(self, index: int) -> AbstractRecord:
        return self._records[index]

    def __repr__(self) -> str:
        return f"CapturedAttention({self._existing() or 'empty'})"

    @property
    def nbytes(self) -> int:
        """Bytes held by all records; what they share is counted once."""
        tensors = {id(t): t for record in self._records for t in record.tensors}
        return sum(tensor.nbytes for tensor in tensors.values())

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
            **selection: See `Selection`. Cross-attention is left out unless a kind or
                a name is given.

        Raises:
            SiteNotFoundError: There is none; the message lists what exists.
        """
        choice = Choice.of(layers, **selection)
        chains_only = choice.kind is None and choice.name is None
        found = tuple(
            record
            for record in self._records
            if self._chosen(record, choice)
            and not (chains_only and record.site.kind == "cross")
        )
        if not found:
            asked = {"layers": layers, **selection}
            message = (
                "no captured attention fits "
                + ", ".join(f"{k}={v!r}" for k, v in asked.items() if v is not None)
                + f"; there is: {self._existing() or 'nothing'}"
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
        `heads=[0, 1]` or None `(pictures, heads)`.

        Args:
            layers: Layers counted from 0 for each kind of attention; -1 is the last.
            heads: Heads to take, all by default.
            **selection: See `Selection`. Cross-attention is left out.

        Raises:
            SiteNotFoundError: Nothing fits, or several records fit one layer number.
            ShapeError: A record is no chain (cross-attention), or has no such head.
        """
        found = self.matching(layers, **selection)
        if not isinstance(layers, int):
            return tuple(record.transition(heads) for record in found)
        if len(found) > 1:
            message = (
                f"{len(found)} records fit layer {layers}: "
                f"{listed(record.site for record in found)}. Ask for "
                f"layers=[{layers}] to get them all, or narrow by steps, kind or name"
            )
            raise SiteNotFoundError(message)
        return next(iter(found)).transition(heads)

    def _chosen(self, record: AbstractRecord, choice: Choice) -> bool:
        site = record.site
        return (
            choice.fits_place(site.name, site.kind)
            and choice.fits_layer(site.layer, self.n_layers[site.kind])
            and choice.fits_step(site.step, self.n_steps)
            and choice.branch in (None, site.branch)
            and record.layout.fits_resolution(site, choice.resolution)
        )

    def _existing(self) -> str:
        return listed(record.site for record in self._records)
