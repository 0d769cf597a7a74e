"""Assertions about distributions, matrices and transitions."""

import torch
from torch import Tensor

from attnchain.operators import AbstractTransition, as_transition


def assert_distribution(vector: Tensor, *, atol: float = 1e-6) -> None:
    """Fail unless the last axis is a distribution: entries >= 0, sum 1 within `atol`.

    Raises:
        AssertionError: It is not; the message gives the worst entry and sum.

    Example:
        >>> assert_distribution(torch.tensor([0.25, 0.75]))
    """
    if not torch.isfinite(vector).all():
        raise AssertionError("a distribution has entries that are not finite")
    smallest = float(vector.min())
    deviation = float((vector.sum(-1, dtype=torch.float64) - 1).abs().max())
    if smallest < 0 or deviation > atol:
        raise AssertionError(
            f"not a distribution: smallest entry {smallest:.3g}, sum off by "
            f"{deviation:.3g} (allowed {atol:.3g})"
        )


def assert_stochastic(
    chain: Tensor | AbstractTransition, *, atol: float = 1e-6
) -> None:
    """Fail unless every row of the dense matrix is a distribution within `atol`.

    For a transition, `P 1 = 1` is required of `pull` as well.

    Raises:
        AssertionError: Some row is not a distribution.

    Example:
        >>> assert_stochastic(torch.tensor([[0.9, 0.1], [0.5, 0.5]]))
    """
    if isinstance(chain, Tensor):
        assert_distribution(chain, atol=atol)
        return
    assert_distribution(chain.to_dense(), atol=atol)
    ones = torch.ones(chain.n_states, dtype=chain.dtype, device=chain.device)
    pulled = chain.pull(ones)
    torch.testing.assert_close(pulled, torch.ones_like(pulled), atol=atol, rtol=0)


def assert_adjoint(
    chain: Tensor | AbstractTransition, *, seed: int = 0, rtol: float | None = None
) -> None:
    """Fail unless push and pull belong to the same matrix: `<v P, f> = <v, P f>`.

    Three random pairs of signed vectors per chain are tried.

    Args:
        chain: Transition, or a stochastic tensor.
        seed: Of the random vectors.
        rtol: Largest difference relative to `|v| |f|`; by default what rounding in
            the chain's dtype explains.

    Raises:
        AssertionError: Some pair tells push and pull apart.

    Sources:
        The dot test of PyLops, `pylops.utils.dottest`.

    Example:
        >>> assert_adjoint(torch.tensor([[0.9, 0.1], [0.5, 0.5]]))
    """
    transition = as_transition(chain)
    generator = torch.Generator().manual_seed(seed)
    shape = (2, *transition.batch_shape, 3, transition.n_states)
    pair = torch.randn(shape, generator=generator, dtype=torch.float64)
    v, f = pair.to(dtype=transition.dtype, device=transition.device)
    ahead = (transition.push(v).double() * f.double()).sum(-1)
    behind = (v.double() * transition.pull(f).double()).sum(-1)
    size = v.double().norm(dim=-1) * f.double().norm(dim=-1)
    worst = float(((ahead - behind).abs() / size).max())
    allowed = 64 * torch.finfo(transition.dtype).eps if rtol is None else rtol
    if not worst <= allowed:
        raise AssertionError(
            f"push and pull of {transition!r} are not adjoint: <vP, f> and <v, Pf> "
            f"differ by {worst:.3g} of |v||f| (allowed {allowed:.3g})"
        )
