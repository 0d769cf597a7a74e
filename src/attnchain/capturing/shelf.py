"""Where records are put while the model runs: chosen layers only, within a budget."""

from collections.abc import Callable

from attnchain.capturing.layout import Layout
from attnchain.capturing.record import AbstractRecord
from attnchain.capturing.result import CapturedAttention
from attnchain.capturing.site import AttentionSite, Choice
from attnchain.errors import CaptureBudgetError


class Shelf:
    """Fills a result with what was chosen, and no more bytes than allowed.

    A layer, step or pass counted from the end is not known to be chosen before the
    model has run. Until then the last few are kept and the rest is let go on the way.
    """

    def __init__(self, choice: Choice, max_bytes: int) -> None:
        self.records: list[AbstractRecord] = []
        self.result = CapturedAttention(self.records)
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
            and self.choice.branch in (None, site.branch)
            and self._fits(site, yet=True)
            and layout.fits_resolution(site, self.choice.resolution)
        )

    def put(
        self, site: AttentionSite, nbytes: int, make: Callable[[], AbstractRecord]
    ) -> None:
        """Makes a record and keeps it, when it fits into the budget.

        Raises:
            CaptureBudgetError: It does not fit.
        """
        if self.choice.counts_back:
            self._keep_fitting(yet=True)
        if self.held + nbytes > self.max_bytes:
            message = (
                f"keeping {site} takes {nbytes:,} bytes; with the {self.held:,} bytes "
                f"of {len(self.records)} records held that is more than "
                f"max_bytes={self.max_bytes:,}. Choose fewer layers or steps or one "
                f"resolution, or raise max_bytes, perhaps with device='cpu'"
            )
            raise CaptureBudgetError(message)
        self.held += nbytes
        self.records.append(make())

    def close(self) -> None:
        """Lets go of layers and steps that turned out not to be chosen."""
        self._keep_fitting(yet=False)

    def _keep_fitting(self, *, yet: bool) -> None:
        kept = [r for r in self.records if self._fits(r.site, yet=yet)]
        if len(kept) < len(self.records):
            self.records[:] = kept
            self.held = self.result.nbytes

    def _fits(self, site: AttentionSite, *, yet: bool) -> bool:
        return self.result.fits_counts(site, self.choice, yet=yet)
