"""The token grids of one attention call: that of its queries, and that of its keys."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from attnchain.capturing.grid import TokenGrid
from attnchain.errors import GridError

if TYPE_CHECKING:
    from attnchain.capturing.sites import AttentionSite

UNKNOWN = "no layout is known for this family of models"


@dataclass(frozen=True)
class Layout:
    """Token grid, or the reason why it is missing, of queries and of keys.

    Attributes:
        queries: Grid of the query tokens.
        keys: Grid of the key tokens.
    """

    queries: TokenGrid | str = UNKNOWN
    keys: TokenGrid | str = UNKNOWN

    @classmethod
    def of(cls, grid: TokenGrid | str) -> "Layout":
        """Returns the layout of attention within one sequence."""
        return cls(grid, grid)

    @property
    def is_joint(self) -> bool:
        """True where text and patches lie in one sequence."""
        grid = self.queries
        return isinstance(grid, TokenGrid) and bool(grid.text) and grid.n_patches > 0

    def fitted(self, n_queries: int, n_keys: int) -> "Layout":
        """Returns the layout with grids that do not fit the lengths struck out."""
        return Layout(_fitted(self.queries, n_queries), _fitted(self.keys, n_keys))

    def fits_resolution(
        self, site: "AttentionSite", resolution: tuple[int, int] | None
    ) -> bool:
        """Tells whether the queries have the rows and columns asked for, if any.

        Raises:
            GridError: Some were asked for, and the grid is not known.
        """
        if resolution is None:
            return True
        grid = self.known(site)
        return (grid.rows, grid.columns) == tuple(resolution)

    def known(self, site: "AttentionSite", *, keys: bool = False) -> TokenGrid:
        """Returns the grid of queries or keys.

        Raises:
            GridError: It is not known.
        """
        grid = self.keys if keys else self.queries
        if isinstance(grid, TokenGrid):
            return grid
        message = (
            f"the token grid of {site} is not known: {grid}. Give it by hand with "
            f"capture(model, grid=TokenGrid(rows=..., columns=..., prefix=...)), or "
            f"grid=a function of a module's name and its number of tokens"
        )
        raise GridError(message)


def _fitted(grid: TokenGrid | str, n_tokens: int) -> TokenGrid | str:
    if isinstance(grid, str) or grid.n_tokens == n_tokens:
        return grid
    return f"{grid} are {grid.n_tokens} tokens where there are {n_tokens}"
