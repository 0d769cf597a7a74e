"""Fast Nystrom attention: a low-rank stand-in that is not quite a chain."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.errors import NotStochasticError, ShapeError
from attnchain.operators.attention import AttentionTransition
from attnchain.operators.base import kept_states
from attnchain.operators.memory import announce_storage

ITERATIONS = 6
"""Newton-Schulz steps of the published method."""
_BLOCK = 2**22


@dataclass(frozen=True, eq=False)
class FastNystrom:
    r"""Attention through s landmark tokens: $\tilde P = C A^+ B$.

    $C = \text{softmax}(Q K_S^\top)$, $A = \text{softmax}(Q_S K_S^\top)$,
    $B = \text{softmax}(Q_S K^\top)$ (scaled). Products cost O(n s). Rows sum to one
    only as far as the inverse is exact, and entries may be negative, so this is no
    `AbstractTransition`: ask `row_sum_error` and `most_negative` first.

    The inverse is a Newton-Schulz iteration stopped early. With few steps the error
    is bounded and the rows are off; with many, or none of it (`iterations=None`, the
    exact pseudo-inverse), rows sum to one but entries can become large.

    Attributes:
        left: C A^+, `(*batch, n, s)`.
        right: B, `(*batch, s, n)`.

    Sources:
        Lu, Liao, Wang, Yang, Shi, arXiv 2507.16018; Razavi et al., Appl. Anal. 2014,
        for the iteration (as in Nystromformer, arXiv 2102.03902).
    """

    left: Float[Tensor, "*batch n s"]
    right: Float[Tensor, "*batch s n"]

    @property
    def shape(self) -> torch.Size:
        """`(*batch, n, n)`."""
        return torch.Size((*self.left.shape[:-1], self.left.shape[-2]))

    def push(self, vectors: Float[Tensor, "*batch r n"]) -> Float[Tensor, "*batch r n"]:
        """Row vectors times the operator; `(n,)` is shared by all heads."""
        return self._times(vectors, self.left, self.right)

    def pull(self, values: Float[Tensor, "*batch r n"]) -> Float[Tensor, "*batch r n"]:
        """The operator times observables in the last axis; the shapes of `push`."""
        return self._times(values, self.right.mT, self.left.mT)

    def row_sum_error(self) -> Float[Tensor, "*batch"]:
        """Largest deviation of a row sum from one."""
        ones = self.left.new_ones(self.left.shape[-2])
        return (self.pull(ones) - 1).abs().amax(-1)

    def most_negative(self) -> Float[Tensor, "*batch"]:
        """The smallest entry, or zero. Takes all n * n entries, a block at a time."""
        n = self.left.shape[-2]
        rows = max(1, _BLOCK // (n * max(1, self.left[..., 0, 0].numel())))
        smallest = [
            (block @ self.right).amin((-2, -1)) for block in self.left.split(rows, -2)
        ]
        return torch.stack(smallest).amin(0).clamp_max(0)

    def normalized(self) -> "FastNystrom":
        """Every row divided by its sum. Negative entries stay.

        Raises:
            NotStochasticError: A row sum is not positive.
        """
        sums = self.pull(self.left.new_ones(self.left.shape[-2]))
        if not bool((sums > 0).all()):
            message = (
                f"a row sums to {float(sums.min()):.3g}: this approximation cannot be "
                "normalised; take more landmarks or fewer iterations"
            )
            raise NotStochasticError(message)
        return replace(self, left=self.left / sums[..., None])

    def to_dense(self) -> Float[Tensor, "*batch n n"]:
        """The matrices themselves.

        Warns:
            MaterializationWarning: They exceed the memory budget.
        """
        announce_storage(self.shape, self.left.dtype, self.left.device)
        return self.left @ self.right

    def _times(self, vectors: Tensor, first: Tensor, second: Tensor) -> Tensor:
        n, batch = first.shape[-2], first.shape[:-2]
        single = vectors.ndim in (1, len(batch) + 1)
        if vectors.ndim not in (1, len(batch) + 1, len(batch) + 2) or (
            vectors.shape[-1] != n
        ):
            have, want = tuple(vectors.shape), tuple(self.shape)
            message = f"vectors of shape {have} do not fit an operator {want}"
            raise ShapeError(message)
        rows = vectors.unsqueeze(-2) if single else vectors
        product = rows.to(first.dtype) @ first @ second
        return product.squeeze(-2) if single else product


def fast_nystrom(
    chain: AttentionTransition,
    landmarks: Tensor,
    *,
    iterations: int | None = ITERATIONS,
) -> FastNystrom:
    """Fast Nystrom attention of unmasked heads.

    Args:
        chain: One head or a batch, neither masked nor causal.
        landmarks: Indices or mask of the landmark tokens, shared by all heads.
        iterations: Newton-Schulz steps; None for the exact pseudo-inverse.

    Returns:
        The operator; not a chain.

    Raises:
        ShapeError: A masked or causal chain, or landmarks that are no states.

    Example:
        >>> import torch
        >>> key = torch.tensor([[1.0], [1.0], [-1.0]]).double()
        >>> chain = AttentionTransition(key, key)
        >>> small = fast_nystrom(chain, torch.tensor([0, 2]), iterations=None)
        >>> torch.allclose(small.to_dense(), chain.to_dense())
        True
    """
    if chain.mask is not None or chain.causal:
        message = "fast_nystrom takes neither masked nor causal attention"
        raise ShapeError(message)
    if iterations is not None and (iterations != int(iterations) or iterations < 1):
        message = f"iterations must be a whole number >= 1 or None, not {iterations!r}"
        raise ShapeError(message)
    chosen = kept_states(landmarks, chain.n_states).to(chain.device)
    scale = chain.q.shape[-1] ** -0.5 if chain.scale is None else chain.scale
    q, k = chain.q * scale, chain.k
    q_chosen, k_chosen = q[..., chosen, :], k[..., chosen, :]
    core = (q_chosen @ k_chosen.mT).softmax(-1)
    inverse = (
        torch.linalg.pinv(core) if iterations is None else _newton(core, iterations)
    )
    left = (q @ k_chosen.mT).softmax(-1) @ inverse
    return FastNystrom(left, (q_chosen @ k.mT).softmax(-1))


def _newton(core: Tensor, iterations: int) -> Tensor:
    """Third-order Newton-Schulz iteration for the inverse of a stochastic matrix."""
    one = torch.eye(core.shape[-1], dtype=core.dtype, device=core.device)
    inverse = core.mT / core.sum(-2).amax(-1)[..., None, None]
    for _ in range(iterations):
        near = core @ inverse
        inverse = inverse @ (13 * one - near @ (15 * one - near @ (7 * one - near))) / 4
    return inverse
