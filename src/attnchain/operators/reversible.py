"""The chain that steps along attention and back again."""

from attnchain.operators.algebra import Product
from attnchain.operators.base import AbstractTransition
from attnchain.operators.reweighted import ColumnNormalized
from attnchain.operators.stacked import Stacked


def forward_backward(transition: AbstractTransition) -> AbstractTransition:
    r"""Steps from i to what it attends to, then back to what attends there.

    $S = P \,\mathrm{diag}(c)^{-1} P^\top$ with column sums c: two tokens are close when
    they attend to the same things, whatever their popularity. S is symmetric and
    doubly stochastic, so its spectrum is real and its stationary distribution uniform.

    Args:
        transition: Attention P, one chain or a batch.

    Returns:
        `Product` of P and its column-normalised form; `Stacked` of these for a batch
        with padding.

    Raises:
        NotStochasticError: Nothing ever attends to some state.

    Sources:
        The co-citation walk of bibliographic coupling; Fill, Ann. Appl. Probab. 1991,
        multiplicative reversibilisation, here under the uniform measure.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> chain = as_transition(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
        >>> forward_backward(chain).to_dense()
        tensor([[0.6667, 0.3333],
                [0.3333, 0.6667]])
    """
    if isinstance(transition, Stacked):
        return transition.each(forward_backward)
    return Product([transition, ColumnNormalized(transition)])
