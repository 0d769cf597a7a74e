"""Fast Nystrom attention, its landmarks, and massive tokens (arXiv 2507.16018).

From the formulas of Lu, Liao, Wang, Yang, Shi. `fast_nystrom` is a low-rank stand-in
that is not quite a chain, `farthest_points` chooses its landmarks. `massive_tokens`
finds tokens by norm; `masked` takes attention to them away before the softmax, `Sunk`
after it.
"""

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attnchain.checks import check_count, check_finite, check_floating, check_whole
from attnchain.errors import ArgumentError, NotStochasticError, ShapeError
from attnchain.operators import (
    AbstractTransition,
    AttentionTransition,
    announce_storage,
    full_precision,
    kept_states,
)

ITERATIONS = 6
"""Newton-Schulz steps of the published method."""


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
        Razavi et al., Appl. Anal. 2014, for the iteration (as in Nystromformer, arXiv
        2102.03902).
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
        """The smallest entry, or zero. Takes all n * n entries, 64 rows at a time."""
        rows = self.left.split(64, -2)
        smallest = [(block @ self.right).amin((-2, -1)) for block in rows]
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

    @full_precision
    def to_dense(self) -> Float[Tensor, "*batch n n"]:
        """The matrices themselves.

        Warns:
            MaterializationWarning: They exceed the memory budget.
        """
        announce_storage(self.shape, self.left.dtype, self.left.device)
        return self.left @ self.right

    def _times(self, vectors: Tensor, first: Tensor, second: Tensor) -> Tensor:
        axes = self.left.ndim - 1
        single = vectors.ndim in (1, axes)
        if not (single or vectors.ndim == axes + 1) or (
            vectors.shape[-1] != self.shape[-1]
        ):
            have, want = tuple(vectors.shape), tuple(self.shape)
            raise ShapeError(f"vectors of shape {have} do not fit an operator {want}")
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
        ArgumentError: A masked or causal chain, landmarks that are no states, or
            iterations below one.

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
        raise ArgumentError(message)
    if iterations is not None:
        check_whole(iterations, "iterations")
    chosen = kept_states(landmarks, chain.n_states, "landmarks").to(chain.device)
    scale = chain.q.shape[-1] ** -0.5 if chain.scale is None else chain.scale
    q, k = chain.q * scale, chain.k
    q_chosen, k_chosen = q[..., chosen, :], k[..., chosen, :]
    core = (q_chosen @ k_chosen.mT).softmax(-1)
    inverse = (
        torch.linalg.pinv(core) if iterations is None else _newton(core, iterations)
    )
    left = (q @ k_chosen.mT).softmax(-1) @ inverse
    return FastNystrom(left, (q_chosen @ k.mT).softmax(-1))


def farthest_points(
    features: Float[Tensor, "n d"], count: int
) -> Int[Tensor, " count"]:
    """Landmarks far from each other: each next one farthest from those chosen.

    Args:
        features: What distances are measured in, for example the keys of a head.
        count: Number of landmarks, 1..n.

    Returns:
        Distinct indices; the first lies farthest from the mean.

    Raises:
        ArgumentError: The count is out of range.
    """
    n = len(features)
    check_count(count, "count", low=1, high=n, meaning="the number of states")
    distance = (features - features.mean(0)).norm(dim=-1)
    chosen = [int(distance.argmax())]
    distance = torch.full_like(distance, torch.inf)
    while len(chosen) < count:
        last = features[chosen[-1]]
        distance = torch.minimum(distance, (features - last).norm(dim=-1))
        distance[chosen] = -1
        chosen.append(int(distance.argmax()))
    return torch.tensor(chosen, device=features.device)


def massive_tokens(features: Float[Tensor, "n d"]) -> Int[Tensor, " m"]:
    """Tokens whose norm stands apart: those above the largest gap of log norms.

    Args:
        features: Token features of one layer, for example its input; no zero rows.

    Returns:
        Their indices, by decreasing norm. There is always a largest gap: look at how
        many tokens lie above it before trusting it.

    Raises:
        ShapeError: Fewer than two tokens.
        NotStochasticError: A row is zero or not finite.

    Example:
        >>> import torch
        >>> massive_tokens(torch.tensor([[1.0], [90.0], [2.0], [100.0]]))
        tensor([3, 1])
    """
    check_floating(features, "features")
    if features.ndim != 2 or len(features) < 2:
        message = f"features must be (n, d), n >= 2, but are {tuple(features.shape)}"
        raise ShapeError(message)
    check_finite(features, "features")
    norms = features.double().norm(dim=-1)
    if bool((norms == 0).any()):
        message = f"token {int(norms.argmin())} has norm zero, whose logarithm has none"
        raise NotStochasticError(message)
    sizes, order = norms.log().sort(descending=True, stable=True)
    return order[: 1 + int((sizes[:-1] - sizes[1:]).argmax())]


def masked(chain: AttentionTransition, tokens: Tensor) -> AttentionTransition:
    """The chain that never enters some tokens: their scores are -inf.

    Rows are renormalised over the other keys, their own included, so the tokens
    become transient: they can be left, not entered. `restrict` drops them instead.

    Args:
        chain: Heads over attention.
        tokens: Indices or mask of the tokens.

    Returns:
        A chain over the same states; the same as conditioning each step on not
        entering the tokens.

    Raises:
        ArgumentError: The tokens are no states, or all of them.
    """
    shut = kept_states(tokens, chain.n_states, "tokens")
    if len(shut) == chain.n_states:
        raise ArgumentError("no token is left to step to; keep at least one open")
    allowed = torch.ones(1, chain.n_states, dtype=torch.bool, device=chain.device)
    allowed[0, shut.to(chain.device)] = False
    mask = chain.mask
    if mask is None:
        mask = allowed
    elif mask.dtype == torch.bool:
        mask = mask & allowed
    else:
        mask = mask.masked_fill(~allowed, -torch.inf)
    return replace(chain, mask=mask)


@dataclass(frozen=True, eq=False)
class Sunk:
    """A chain killed on entering some tokens: their probabilities become zero.

    The variant after the softmax: rows are not renormalised, so mass is lost and this
    is no `AbstractTransition`. `lost` says how much.

    Args:
        base: The chain.
        tokens: Indices or mask of the tokens.

    Attributes:
        lost: Probability of entering one of the tokens in one step, `(*batch, n)`.

    Raises:
        ArgumentError: The tokens are no states.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> chain = as_transition(torch.tensor([[0.75, 0.25], [0.5, 0.5]]))
        >>> Sunk(chain, torch.tensor([1])).push(torch.tensor([1.0, 0.0]))
        tensor([0.7500, 0.0000])
    """

    base: AbstractTransition
    tokens: Tensor
    lost: Float[Tensor, "*batch n"] = field(init=False)

    def __post_init__(self) -> None:
        tokens = kept_states(self.tokens, self.base.n_states, "tokens").to(
            self.base.device
        )
        object.__setattr__(self, "tokens", tokens)
        entered = torch.zeros(self.base.n_states, dtype=self.base.dtype)
        entered[tokens.cpu()] = 1
        object.__setattr__(self, "lost", self.base.pull(entered))

    def push(self, vector: Tensor) -> Tensor:
        """One step of what is still alive; the shapes of `AbstractTransition.push`."""
        return self.base.push(vector).index_fill(-1, self.tokens, 0)

    def pull(self, observable: Tensor) -> Tensor:
        """Expected value after a step, zero for what was killed."""
        return self.base.pull(observable.index_fill(-1, self.tokens, 0))


def _newton(core: Tensor, iterations: int) -> Tensor:
    """Third-order Newton-Schulz iteration for the inverse of a stochastic matrix."""
    one = torch.eye(core.shape[-1], dtype=core.dtype, device=core.device)
    inverse = core.mT / core.sum(-2).amax(-1)[..., None, None]
    for _ in range(iterations):
        near = core @ inverse
        inverse = inverse @ (13 * one - near @ (15 * one - near @ (7 * one - near))) / 4
    return inverse
