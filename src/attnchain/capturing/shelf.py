"""Where records are put while the model runs: chosen layers only, within a budget."""

from collections.abc import Callable

from attnchain.capturing.layout import Layout
from attnchain.capturing.record import AbstractRecord
from attnchain.capturing.result import CapturedAttention
from attnchain.capturing.site import AttentionSite, Choice
from attnchain.errors import CaptureBudgetError


class Shelf:
    """Fills a result with what was chosen, and no more bytes than allowed.

    A layer counted from the end is not known to be chosen before the model has run.
    Until then the last few layers are kept and the rest is let go on the way.
    """

    def __init__(
        self, result: CapturedAttention, choice: Choice, max_bytes: int
    ) -> None:
        self.result = result
        self.choice = choice
        self.max_bytes = max_bytes
        self.held = 0

    def wants(self, site: AttentionSite, layout: Layout) -> bool:
        """Tells whether a site is chosen, or may yet turn out to be.

        Raises:
            GridError: A resolution was asked for, and the token grid is not known.
        """
        return (
            self.choice.fits_place(site.name, site.kind)
            and self.choice.fits_step(site.step, self.result.n_steps)
            and self._may_fit(site)
            and layout.fits_resolution(site, self.choice.resolution)
        )

    def put(
        self, site: AttentionSite, nbytes: int, make: Callable[[], AbstractRecord]
    ) -> None:
        """Makes a record and keeps it, when it fits into the budget.

        Raises:
            CaptureBudgetError: It does not fit.
        """
        self.keep_only(lambda record: self._may_fit(record.site))
        if self.held + nbytes > self.max_bytes:
            message = (
                f"keeping {site} takes {nbytes:,} bytes; with the {self.held:,} bytes "
                f"of {len(self.result)} records held that is more than "
                f"max_bytes={self.max_bytes:,}. Choose fewer layers or steps or one "
                f"resolution, or raise max_bytes, perhaps with device='cpu'"
            )
            raise CaptureBudgetError(message)
        self.held += nbytes
        self.result.records.append(make())

    def keep_only(self, wanted: Callable[[AbstractRecord], bool]) -> None:
        """Lets go of the records that are not wanted."""
        records = self.result.records
        dropped = [record for record in records if not wanted(record)]
        if dropped:
            self.held -= sum(record.nbytes for record in dropped)
            records[:] = [record for record in records if wanted(record)]

    def close(self) -> None:
        """Lets go of layers that turned out not to be chosen."""
        n_layers = self.result.n_layers
        self.keep_only(
            lambda record: self.choice.fits_layer(
                record.site.layer, n_layers[record.site.kind]
            )
        )

    def _may_fit(self, site: AttentionSite) -> bool:
        n_layers = self.result.n_layers[site.kind]
        return (
            self.choice.fits_layer(site.layer, n_layers)
            or site.layer >= n_layers - self.choice.depth
        )
