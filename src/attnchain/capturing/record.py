"""What was read at one attention call: the base of all records, and matrices."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from attnchain.capturing.grid import TokenGrid
from attnchain.capturing.layout import Layout
from attnchain.capturing.site import AttentionSite
from attnchain.errors import ShapeError
from attnchain.operators import AbstractTransition, DenseTransition

Heads = int | Sequence[int] | None


@dataclass(frozen=True, eq=False, repr=False)
class AbstractRecord(ABC):
    """One attention call: its place, its token layout and its probabilities.

    Attributes:
        site: Where and when it was computed.
        causal: Query i sees keys 0..i only.
        layout: Token grids of queries and keys, as far as they are known.
    """

    site: AttentionSite
    causal: bool = field(default=False, kw_only=True)
    layout: Layout = field(default_factory=Layout, kw_only=True)

    def __repr__(self) -> str:
        """Returns one line, without the numbers."""
        first, tokens = self.tensors[0], self.layout.queries
        layout = f", {tokens}" if isinstance(tokens, TokenGrid) else ""
        return (
            f"{type(self).__name__}({self.site}, shape={self.shape}{layout}, "
            f"{str(first.dtype).removeprefix('torch.')}, {first.device})"
        )

    @property
    def grid(self) -> TokenGrid:
        """Layout of the query tokens; raises GridError when it is not known."""
        return self.layout.known(self.site)

    @property
    def key_grid(self) -> TokenGrid:
        """Layout of the key tokens; raises GridError when it is not known."""
        return self.layout.known(self.site, keys=True)

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Pictures, heads, queries, keys."""

    @property
    @abstractmethod
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors held; several records may hold the same mask."""

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @abstractmethod
    def transition(self, heads: Heads = None) -> AbstractTransition:
        """Returns the attention as a batch of chains.

        Args:
            heads: A head (its axis is dropped), several heads, or all.

        Returns:
            A transition of batch shape `(pictures, heads)`, or `(pictures,)`.

        Raises:
            ShapeError: Queries and keys are not the same tokens (cross-attention, or
                decoding with a cache), or there is no such head.
        """

    @abstractmethod
    def probabilities(self, heads: Heads = None) -> Float[Tensor, "*batch n m"]:
        """Returns the attention as matrices; for cross-attention too.

        Rows are softmax probabilities over the keys, in float32 or float64; the row
        of a query that may see no key is zero, as torch has it.

        Args:
            heads: A head (its axis is dropped), several heads, or all.

        Raises:
            ShapeError: There is no such head.

        Cost:
            One n x m matrix for each picture and head.
        """

    def _check_chain(self) -> None:
        n_queries, n_keys = self.shape[-2:]
        if self.site.kind == "cross" or n_queries != n_keys:
            message = (
                f"{self.site} is no chain: its {n_queries} queries and {n_keys} keys "
                f"are not the same tokens. "
            )
            if self.site.kind == "cross":
                message += (
                    "Take its record with .matching(kind='cross') and use "
                    ".probabilities(), for example as the start of a walk"
                )
            else:
                message += (
                    "After the first pass a cache holds more keys; choose forwards=0, "
                    "or capture a pass over the whole text without a cache"
                )
            raise ShapeError(message)

    def _check_heads(self, heads: Heads, n_heads: int) -> None:
        several = heads if isinstance(heads, Iterable) else [heads]
        asked = range(1) if heads is None else list(several)
        known = range(-n_heads, n_heads)
        if not asked or any(head not in known for head in asked):
            message = (
                f"{self.site} has heads 0 to {n_heads - 1}, but {heads!r} was asked for"
            )
            raise ShapeError(message)


@dataclass(frozen=True, eq=False, repr=False)
class DenseRecord(AbstractRecord):
    """Attention kept as matrices, of every head or of their mean.

    Attributes:
        matrix: Probabilities `(pictures, heads, n, m)`; the mean over heads has one.
    """

    matrix: Float[Tensor, "pictures heads n m"]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.matrix.shape)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.matrix,)

    def transition(self, heads: Heads = None) -> AbstractTransition:
        self._check_chain()
        return DenseTransition(self.probabilities(heads))

    def probabilities(self, heads: Heads = None) -> Tensor:
        self._check_heads(heads, self.matrix.shape[1])
        return self.matrix if heads is None else self.matrix[:, heads]
