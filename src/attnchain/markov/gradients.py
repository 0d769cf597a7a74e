r"""Gradients of a stationary distribution, by implicit differentiation.

$\pi = \pi P$ gives $d\pi = (\pi\, dP)\,(1 - P + \mathbf 1 \pi)^{-1}$: one
differentiable push at the solution, and for a gradient g one solve of
$\lambda = P \lambda + g - (\pi g) \mathbf 1$. Constants in lambda do not matter, since
$\pi\, dP$ sums to zero. This holds for any irreducible chain, damped or not, and for
the column-normalised form.

Second derivatives are refused (`DerivativeError`): the backward solve is not
differentiated.
"""

# pyright: reportUnknownMemberType=false

import warnings
from typing import Any, cast

import torch
from torch import Tensor

from attnchain.errors import DerivativeError, NumericalWarning
from attnchain.markov.solvers.equations import Equations
from attnchain.markov.solvers.gmres import minimise
from attnchain.operators import AbstractTransition, full_precision, stored

_RELATIVE = {torch.float32: 1e-5, torch.float64: 1e-10}
"""Residual of the adjoint equations, relative to the incoming gradient."""
_MAX_ITERATIONS = 1_000


def with_gradient(transition: AbstractTransition, distribution: Tensor) -> Tensor:
    """The same distribution, differentiable in what the transition is made of.

    Args:
        transition: One chain or a batch.
        distribution: Its stationary distribution, `(*batch, n)`, float64.

    Returns:
        The distribution's values; backward costs one adjoint solve for each chain.
    """
    moved = transition.push(distribution.to(transition.dtype))
    return cast("Tensor", _Implicit.apply(moved.double(), distribution, transition))


class _Implicit(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, moved: Tensor, distribution: Tensor, transition: AbstractTransition
    ) -> Tensor:
        ctx.save_for_backward(distribution, moved)
        ctx.transition = transition
        return distribution.clone()

    @staticmethod
    @full_precision
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor | None, ...]:
        distribution, moved = ctx.saved_tensors
        transition: AbstractTransition = ctx.transition
        of_chains = map(transition.apart, (distribution, gradient))
        flat = zip(transition.chains(), *of_chains, strict=True)
        with torch.no_grad():
            solved = [_adjoint(chain, pi, g) for chain, pi, g in flat]
        whole = transition.together(solved)
        once = cast("Tensor", _Once.apply(whole, moved, gradient))
        return once, None, None


class _Once(torch.autograd.Function):
    """A derivative that belongs to what it was computed from, and refuses a second."""

    @staticmethod
    def forward(_: Any, derivative: Tensor, *__: Tensor) -> Tensor:
        return derivative.clone()

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        _: Any, __: Tensor
    ) -> tuple[Tensor | None, ...]:
        message = (
            "second derivatives of a stationary distribution are not computed; take "
            "finite differences of the first, or autograd through dense matrices"
        )
        raise DerivativeError(message)


def _adjoint(chain: AbstractTransition, pi: Tensor, gradient: Tensor) -> Tensor:
    """Lambda of one chain."""
    right = (gradient - pi @ gradient).to(chain.dtype)
    ones = torch.ones_like(right)
    equations = Equations(stored(chain), "pull", 1.0, right, ones)
    target = _RELATIVE[chain.dtype] * float(right.abs().sum())
    found = minimise(equations, target=target, max_iterations=_MAX_ITERATIONS).x
    reached = float(equations.residual(found).abs().sum())
    if reached > 100 * target:
        warnings.warn(
            f"the gradient of the stationary distribution is known to {reached:.1g} "
            f"only (L1 residual, wanted {target:.1g}); lower damping",
            NumericalWarning,
            stacklevel=2,
        )
    return found.double()
