"""Fast Nystrom attention and its landmarks (arXiv 2507.16018).

From the formulas of Lu, Liao, Wang, Yang, Shi, *Artifacts and Attention Sinks*.
`fast_nystrom` is a low-rank stand-in for a head that is not quite a chain,
`nystrom_attention` its output, `fast_nystrom_layers` a model that runs with it.
`farthest_points` chooses landmarks. The paper's massive tokens are in `massive`.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attnchain.capturing import replaced_attention
from attnchain.checks import check_count, check_whole
from attnchain.errors import ArgumentError, NotStochasticError, ShapeError
from attnchain.operators import (
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


def nystrom_attention(
    query: Float[Tensor, "*batch n d"],
    key: Float[Tensor, "*batch n d"],
    value: Float[Tensor, "*batch n e"],
    landmarks: Int[Tensor, "..."],
    *,
    scale: float | None = None,
    iterations: int = ITERATIONS,
) -> Float[Tensor, "*batch n e"]:
    r"""A head's output by Fast Nystrom attention: $C (A^+ (B V))$, O(n s).

    The same operator as `fast_nystrom`, by two calls of fused attention and an inverse
    of size s: neither C nor B is stored.

    Args:
        query: Queries of unmasked heads.
        key: Their keys.
        value: Their values.
        landmarks: Distinct indices of the landmark tokens, `(s,)` for all heads or
            `(pictures, s)` for the first batch dimension.
        scale: Factor of the scores; by default `d ** -0.5`.
        iterations: Newton-Schulz steps.

    Returns:
        What the model's attention would nearly return; differentiable.

    Raises:
        ArgumentError: Landmarks that are no tokens, or iterations below one.
        ShapeError: Landmarks for another number of pictures.
    """
    check_whole(iterations, "iterations")
    rows = landmarks if landmarks.ndim == 2 else landmarks[None]
    if len(rows) not in (1, query.shape[0]) or query.ndim < 3:
        have, want = tuple(landmarks.shape), tuple(query.shape)
        raise ShapeError(f"landmarks {have} must be (s,) or (pictures, s) for {want}")
    for row in rows:
        kept_states(row, query.shape[-2], "landmarks")
    places = rows.to(query.device).view(len(rows), *(1,) * (query.ndim - 3), -1, 1)
    q, k = (x.take_along_dim(places, -2) for x in (query, key))
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    inverse = _newton((factor * q @ k.mT).softmax(-1), iterations)
    fused = torch.nn.functional.scaled_dot_product_attention
    return fused(query, k, inverse @ fused(q, key, value, scale=scale), scale=scale)


@contextmanager
def fast_nystrom_layers(
    model: nn.Module,
    count: int,
    *,
    layers: Collection[int],
    guaranteed: Sequence[int] = (0,),
    iterations: int = ITERATIONS,
) -> Iterator[None]:
    """Runs a model with Fast Nystrom attention in some of its layers.

    As the authors do: at the first of these layers landmarks are the farthest points
    of the queries (heads side by side), for each picture, and later layers take them
    over.

    Args:
        model: A model of unmasked self-attention.
        count: Number of landmarks s.
        layers: Numbers of the calls of attention, counted from 0.
        guaranteed: Tokens that are landmarks in any case: the class token.
        iterations: Newton-Schulz steps.

    Raises:
        ArgumentError: Wrong landmarks or iterations, while the model runs.
        CaptureError: As `replaced_attention` says.
    """
    chosen: list[Tensor] = []

    def attend(
        query: Tensor, key: Tensor, value: Tensor, *, scale: float | None = None
    ) -> Tensor:
        if not chosen:
            features = query.detach().transpose(-3, -2).flatten(-2)
            found = [farthest_points(x, count, guaranteed=guaranteed) for x in features]
            chosen.append(torch.stack(found))
        return nystrom_attention(
            query, key, value, chosen[0], scale=scale, iterations=iterations
        )

    hook = model.register_forward_pre_hook(lambda *_: chosen.clear())
    try:
        with replaced_attention(model, attend, layers=layers):
            yield
    finally:
        hook.remove()


def farthest_points(
    features: Float[Tensor, "n d"],
    count: int,
    *,
    guaranteed: Sequence[int] = (),
    excluded: Sequence[int] = (),
) -> Int[Tensor, " count"]:
    """Landmarks far from each other: each next one farthest from those chosen.

    Args:
        features: What distances are measured in, for example the queries of a layer.
        count: Number of landmarks.
        guaranteed: Tokens chosen before all others, such as the class token.
        excluded: Tokens never chosen, such as massive ones.

    Returns:
        Distinct indices: the guaranteed ones, then the others in the order they were
        chosen. Without guaranteed ones the first lies farthest from the mean (the
        authors draw it at random).

    Raises:
        ArgumentError: More landmarks than tokens not excluded, fewer than those
            guaranteed, or a token both guaranteed and excluded, or none.

    Example:
        >>> import torch
        >>> line = torch.tensor([[0.0], [1.0], [5.0], [9.0]])
        >>> farthest_points(line, 3, guaranteed=(1,))
        tensor([1, 3, 2])
    """
    n = len(features)
    chosen, shut = (
        _tokens(guaranteed, n, "guaranteed"),
        _tokens(excluded, n, "excluded"),
    )
    if both := set(chosen) & set(shut):
        raise ArgumentError(f"tokens {sorted(both)} are both guaranteed and excluded")
    low, high = max(1, len(chosen)), n - len(shut)
    check_count(count, "count", low=low, high=high, meaning="tokens guaranteed and n")
    distance = torch.full_like(features[:, 0], torch.inf)
    distance[shut] = -1
    for token in chosen:
        distance = torch.minimum(distance, (features - features[token]).norm(dim=-1))
    spread = (features - features.mean(0)).norm(dim=-1)
    while len(chosen) < count:
        distance[chosen] = -1
        far = distance if chosen else torch.minimum(distance, spread)
        chosen.append(int(far.argmax()))
        last = features[chosen[-1]]
        distance = torch.minimum(distance, (features - last).norm(dim=-1))
    return torch.tensor(chosen, device=features.device)


def _tokens(given: Sequence[int], n: int, name: str) -> list[int]:
    return kept_states(list(given), n, name).tolist() if len(given) else []


def _newton(core: Tensor, iterations: int) -> Tensor:
    """Third-order Newton-Schulz iteration for the inverse of a stochastic matrix."""
    one = torch.eye(core.shape[-1], dtype=core.dtype, device=core.device)
    inverse = core.mT / core.sum(-2).amax(-1)[..., None, None]
    for _ in range(iterations):
        near = core @ inverse
        inverse = inverse @ (13 * one - near @ (15 * one - near @ (7 * one - near))) / 4
    return inverse
