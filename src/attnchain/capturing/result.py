"""What a capture hands back: records, and transitions chosen from them."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Unpack, overload

from attnchain.capturing.grid import TokenGrid
from attnchain.capturing.record import AbstractRecord, Heads
from attnchain.capturing.site import (
    AttentionSite,
    Choice,
    Kind,
    Numbers,
    Selection,
    described,
    listed,
)
from attnchain.errors import GridError, SiteNotFoundError
from attnchain.operators import AbstractTransition

NARROWING = {
    "steps": "step",
    "forwards": "forward",
    "branch": "branch",
    "kind": "kind",
    "name": "name",
}


class CapturedAttention:
    """The attention calls seen while a model ran, in order of execution.

    Records are released with it: nothing else keeps them, the model neither.

    Attributes:
        n_layers: For each kind of attention, how many sites the model has.
        n_steps: Denoising steps seen; 0 outside a diffusion pipeline.
        n_forwards: Forward passes of the model seen.
    """

    def __init__(self, records: list[AbstractRecord] | None = None) -> None:
        self._records = [] if records is None else records
        self.n_layers: Counter[Kind] = Counter()
        self.n_steps = 0
        self.n_forwards = 0

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
        if layers is None or isinstance(layers, Iterable):
            return tuple(record.transition(heads) for record in found)
        if len(found) > 1:
            sites = [record.site for record in found]
            ways = [
                word
                for word, attribute in NARROWING.items()
                if len({getattr(site, attribute) for site in sites}) > 1
            ]
            message = (
                f"{len(found)} records fit layer {layers}: {described(sites)}. Narrow "
                f"by {' or '.join(ways)}, or ask for layers=[{layers}] to get them all"
            )
            raise SiteNotFoundError(message)
        return next(iter(found)).transition(heads)

    def fits_counts(
        self, site: AttentionSite, choice: Choice, *, yet: bool = False
    ) -> bool:
        """Tells whether a site's layer, step and forward pass are chosen.

        Args:
            site: The site.
            choice: What was asked for; negative numbers count from what was seen.
            yet: Whether more may follow, so that it may yet be one of the last.
        """
        n_layers = self.n_layers[site.kind]
        return (
            choice.fits_layer(site.layer, n_layers, yet=yet)
            and choice.fits_step(site.step, self.n_steps, yet=yet)
            and choice.fits_forward(site.forward, self.n_forwards, yet=yet)
        )

    def _chosen(self, record: AbstractRecord, choice: Choice) -> bool:
        site = record.site
        return (
            choice.fits_place(site.name, site.kind)
            and self.fits_counts(site, choice)
            and choice.branch in (None, site.branch)
            and record.layout.fits_resolution(site, choice.resolution)
        )

    def _existing(self, *, names: bool = False) -> str:
        sites = [record.site for record in self._records]
        return listed(s.name or "model" for s in sites) if names else described(sites)
