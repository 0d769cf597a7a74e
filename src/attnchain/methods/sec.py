"""Attention inside groups of equal size (Semantic Equitable Clustering, 2405.13337).

`equitable_groups` is the paper's: tokens ordered by the cosine of their key to the mean
key, cut into equal parts. `slow_groups` is ours: halved by the slow mode of the chain.
`grouped_attention` is the fused attention of a model inside groups. The chain that
never leaves its group is `operators.Grouped`, what groups keep `operators.kept_mass`.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from attnchain.checks import check_count, check_finite, check_floating
from attnchain.errors import ArgumentError, ShapeError
from attnchain.markov import spectrum
from attnchain.operators import (
    AbstractTransition,
    Lazy,
    Restricted,
    Seating,
    check_transition,
)

SLOW_TOLERANCE = 1e-3
"""Residual of the slow mode, which is only sorted."""


def even_groups(
    values: Float[Tensor, "*batch n"], groups: int
) -> Int[Tensor, "*batch n"]:
    """Groups of equal size by rank: the smallest values first.

    Args:
        values: One number for each token.
        groups: Number of groups, 1..n. Sizes differ by at most one.

    Returns:
        Group of each token, 0..groups - 1. Among equal values order decides.

    Raises:
        ArgumentError: No values, some not finite, or a wrong number of groups.

    Example:
        >>> import torch
        >>> even_groups(torch.tensor([0.3, 0.9, 0.1, 0.5]), 2)
        tensor([0, 1, 0, 1])
    """
    check_floating(values, "values")
    if values.ndim == 0:
        raise ShapeError("values must have the tokens in their last axis, but is 0-d")
    check_finite(values, "values")
    n = values.shape[-1]
    check_count(groups, "groups", low=1, high=n, meaning="the number of tokens")
    order = values.argsort(dim=-1, stable=True)
    cut = torch.arange(n, device=values.device) * groups // n
    return torch.empty_like(order).scatter(-1, order, cut.expand_as(order))


def equitable_groups(
    keys: Float[Tensor, "*batch n d"], groups: int
) -> Int[Tensor, "*batch n"]:
    r"""Groups of equal size by the cosine of each key to the mean key.

    $g = \frac1n \sum_i k_i$; tokens are ordered by $\cos(k_i, g)$, ascending, and cut
    into consecutive groups. One pass, nothing is learned. Keys in different directions
    at one cosine to the mean are not told apart.

    Args:
        keys: Keys of the heads as attention gets them, after rotary encoding.
        groups: Number of groups, 1..n. Sizes differ by at most one; the paper takes
            divisors of n only.

    Returns:
        Group of each token, 0 farthest from the mean.

    Raises:
        ArgumentError: A wrong number of groups, keys not finite, or a mean of zero, to
            which nothing has a cosine.
        ShapeError: Keys are no `(*batch, n, d)` numbers.

    Sources:
        Fan, Huang, Chen, He, Semantic Equitable Clustering, arXiv 2405.13337.

    Example:
        >>> import torch
        >>> angles = torch.tensor([0.0, 0.1, 1.0, 1.1])
        >>> keys = torch.stack([angles.cos(), angles.sin()], -1)
        >>> equitable_groups(torch.cat([keys, keys[:2]]), 3)
        tensor([1, 2, 0, 0, 1, 2])
    """
    check_floating(keys, "keys")
    if keys.ndim < 2:
        message = f"keys must be (*batch, n, d), but are of shape {tuple(keys.shape)}"
        raise ShapeError(message)
    check_finite(keys, "keys")
    if 0 in keys.shape[-2:]:
        raise ShapeError(f"keys must have tokens and features: {tuple(keys.shape)}")
    mean = keys.mean(-2, keepdim=True)
    rounding = 8 * torch.finfo(keys.dtype).eps
    if bool((mean.norm(dim=-1) <= rounding * keys.norm(dim=-1).amax(-1, True)).any()):
        message = (
            "the mean of the keys is zero to rounding, and no cosine to it means "
            "anything; group by something else, as `slow_groups` does"
        )
        raise ArgumentError(message)
    return even_groups(functional.cosine_similarity(keys, mean, dim=-1), groups)


def slow_groups(chain: AbstractTransition, groups: int) -> Int[Tensor, "*batch n"]:
    r"""Groups of equal size that a walk is slow to leave: halved by the slow mode.

    Tokens are ordered by the second right eigenvector of the chain (of $(I + P) / 2$,
    so that the eigenvalue nearest to 1 counts, not one near -1) and cut in two, as
    evenly as the groups allow; each part is cut again, by the slow mode of the chain
    restricted to it. Where several modes are equally slow, a cut along one of them may
    go through a group.

    Args:
        chain: One chain or a batch; each is cut on its own.
        groups: Number of groups, 1..n. Sizes differ by at most one.

    Returns:
        Group of each token.

    Raises:
        ArgumentError: A wrong number of groups.
        NotStochasticError: A token never steps inside its part.
        ConvergenceError: A mode was not found.

    Cost:
        groups - 1 partial spectra, of ever smaller chains.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> block = torch.full((2, 2), 0.48)
        >>> chain = as_transition(torch.block_diag(block, block) + 0.01)
        >>> found = slow_groups(chain, 2)
        >>> bool(found[0] == found[1] != found[2] == found[3])
        True
    """
    check_transition(chain, "chain")
    if chain.live is not None:
        message = "slow_groups takes chains over all their states, not padded ones"
        raise ArgumentError(message)
    n = chain.n_states
    check_count(groups, "groups", low=1, high=n, meaning="the number of states")
    return chain.together([_halved(one, groups) for one in chain.chains()])


def _halved(chain: AbstractTransition, groups: int) -> Int[Tensor, " n"]:
    n = chain.n_states
    labels = torch.zeros(n, dtype=torch.long, device=chain.device)
    if groups == 1:
        return labels
    mode = spectrum(Lazy(chain), 2, tolerance=SLOW_TOLERANCE).basis[:, 1]
    order = mode.argsort(stable=True)
    few = groups // 2
    cut = few * n // groups
    for part, first, count in ((order[:cut], 0, few), (order[cut:], few, groups - few)):
        inside = chain.restricted_to(part)
        smaller = Restricted(chain, part) if inside is None else inside
        labels[part] = first + _halved(smaller, count)
    return labels


def grouped_attention(
    query: Float[Tensor, "*batch n d"],
    key: Float[Tensor, "*batch n d"],
    value: Float[Tensor, "*batch n e"],
    labels: Int[Tensor, "*batch tokens"],
    *,
    prefix: int = 0,
    scale: float | None = None,
) -> Float[Tensor, "*batch n e"]:
    """Fused attention in which tokens see their group and the prefix only.

    Args:
        query: Queries of the heads.
        key: Their keys.
        value: Their values.
        labels: Group of each token after the prefix, `(n - prefix,)` or one for each
            head; see `equitable_groups`.
        prefix: First tokens (class, registers), which see all tokens and are seen by
            all; the paper has none.
        scale: Factor of the scores; by default `d ** -0.5`.

    Returns:
        What the model's attention would return; differentiable.

    Raises:
        ShapeError: The three do not fit each other, or the labels the tokens.
        ArgumentError: A prefix outside 0..n - 1, or an empty group.
    """
    n = query.shape[-2] if query.ndim > 1 else 0
    if key.shape != query.shape or value.shape[:-1] != key.shape[:-1] or not n:
        shapes = ", ".join(str(tuple(x.shape)) for x in (query, key, value))
        message = (
            f"query, key and value must be of one (*batch, n, d), but are {shapes}"
        )
        raise ShapeError(message)
    check_count(prefix, "prefix", low=0, high=n - 1, meaning="there are tokens beside")
    batch = query.shape[:-2]
    seating = Seating.of(labels, torch.Size((*batch, n - prefix)), query.device)
    q, k, v = (seating.seat(x[..., prefix:, :]) for x in (query, key, value))
    inside = seating.taken
    if prefix:
        k, v = _after_prefix(key, k, prefix), _after_prefix(value, v, prefix)
        inside = functional.pad(inside, (prefix, 0), value=True)
    mask = None if bool(inside.all()) else inside.flatten(0, -3)[..., None, :]
    fused = functional.scaled_dot_product_attention
    flat = (x.reshape(-1, *x.shape[-3:]) for x in (q, k, v))
    found = fused(*flat, attn_mask=mask, scale=scale)
    after = seating.rise(found.view(v.shape[:-2] + found.shape[-2:]))
    if not prefix:
        return after
    first = fused(query[..., :prefix, :], key, value, scale=scale)
    return torch.cat([first, after], -2)


def _after_prefix(whole: Tensor, blocks: Tensor, prefix: int) -> Tensor:
    """The prefix before the members of every block."""
    first = whole[..., None, :prefix, :]
    return torch.cat([first.expand(*blocks.shape[:-2], *first.shape[-2:]), blocks], -2)
