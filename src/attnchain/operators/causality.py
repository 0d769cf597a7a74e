"""Whether chains look back only."""

# pyright: reportUnknownMemberType=false

import torch
from torch import Tensor

from attnchain.operators.algebra import Mixture, Power, Product
from attnchain.operators.attention import AttentionTransition
from attnchain.operators.base import AbstractTransition
from attnchain.operators.dense import DenseTransition
from attnchain.operators.reweighted import Conditioned, Restricted
from attnchain.operators.stacked import Stacked
from attnchain.operators.transform import Lazy


def is_causal(transition: AbstractTransition) -> bool:
    """Whether no chain of a batch ever steps to a later state, as its parts tell.

    Attention says so or has a mask that does; a stored matrix is looked through; what
    is made of such chains is one. Of others, as `Damped`, the answer is no.

    Args:
        transition: One chain or a batch.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> is_causal(as_transition(torch.tensor([[1.0, 0.0], [0.5, 0.5]])))
        True
    """
    if isinstance(transition, AttentionTransition):
        return transition.causal or _hides_later(transition.mask)
    if isinstance(transition, DenseTransition):
        return not bool(transition.matrix.triu(1).any())
    parts: tuple[AbstractTransition, ...] = ()
    if isinstance(transition, Stacked):
        parts = transition.members
    elif isinstance(transition, Mixture):
        parts = tuple(transition.components)
    elif isinstance(transition, Product):
        parts = tuple(transition.factors)
    elif isinstance(transition, Power | Lazy | Conditioned | Restricted):
        parts = (transition.base,)
    if isinstance(transition, Restricted) and bool((transition.keep.diff() < 0).any()):
        return False
    return bool(parts) and all(is_causal(part) for part in parts)


def _hides_later(mask: Tensor | None) -> bool:
    """Whether a mask of every query and key keeps all later keys from each query."""
    if mask is None or mask.shape[-2] != mask.shape[-1]:
        return False
    seen = mask if mask.dtype == torch.bool else ~torch.isneginf(mask)
    return not bool(seen.triu(1).any())
