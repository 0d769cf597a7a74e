"""Heads that are alike: by the moduli of their leading eigenvalues."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attnchain.checks import check_count
from attnchain.errors import ShapeError
from attnchain.markov import spectrum
from attnchain.operators import AbstractTransition, check_transition, is_causal
from attnchain.readouts.rowwise import diagonal


def head_spectra(
    transition: AbstractTransition, count: int = 8
) -> Float[Tensor, "*batch count"]:
    """Moduli of the leading eigenvalues of every head, the largest first.

    Args:
        transition: The heads of a layer, or any batch, without padding.
        count: How many, at most the number of tokens.

    Returns:
        The first is always 1. Of causal heads they are the largest of the diagonal.

    Raises:
        ShapeError: Some chain has padding.
        ArgumentError: More are asked for than there are tokens.
        ConvergenceError: A subspace was not found.

    Cost:
        One pass for causal heads; else some hundred products each.

    Example:
        >>> import torch
        >>> from attnchain import as_transition
        >>> head_spectra(as_transition(torch.tensor([[1.0, 0.0], [0.4, 0.6]])), 2)
        tensor([1.0000, 0.6000])
    """
    check_transition(transition)
    if transition.live is not None:
        message = f"head_spectra needs chains without padding, but got {transition!r}"
        raise ShapeError(f"{message}; take each of its .chains()")
    n = transition.n_states
    check_count(count, "count", low=1, high=n, meaning="the number of tokens")
    if is_causal(transition):
        return diagonal(transition).sort(descending=True).values[..., :count]
    found = [spectrum(chain, count).eigenvalues.abs() for chain in transition.chains()]
    moduli = torch.stack([each[:count].to(transition.dtype) for each in found])
    return moduli.view(*transition.batch_shape, count)


def cluster_heads(
    spectra: Float[Tensor, "*heads count"] | Sequence[Tensor], groups: int
) -> Int[Tensor, "*heads"]:
    """Groups of heads with like spectra, by Ward's hierarchical clustering.

    Args:
        spectra: What `head_spectra` gave, for one layer or a list of layers.
        groups: Number of groups.

    Returns:
        A group for each head, numbered from 0 by decreasing size.

    Raises:
        ArgumentError: More groups are asked for than there are heads.
        ShapeError: Layers have different numbers of heads or eigenvalues.

    Sources:
        Ward, J. Am. Stat. Assoc. 58 (1963); SciPy's implementation.

    Example:
        >>> import torch
        >>> cluster_heads(torch.tensor([[1.0, 0.9], [1.0, 0.1], [1.0, 0.12]]), 2)
        tensor([1, 0, 0])
    """
    from scipy.cluster.hierarchy import fcluster, linkage

    if not isinstance(spectra, Tensor):
        shapes = {tuple(layer.shape) for layer in spectra}
        if len(shapes) != 1:
            message = f"layers must have spectra of one shape, but have {shapes or 0}"
            raise ShapeError(message)
        spectra = torch.stack(list(spectra))
    features = spectra.reshape(-1, spectra.shape[-1]).double().cpu()
    high = len(features)
    check_count(groups, "groups", low=1, high=high, meaning="the number of heads")
    labels = torch.zeros(high, dtype=torch.long)
    if high > 1:
        tree = linkage(features.numpy(), "ward")
        labels = torch.tensor(fcluster(tree, groups, "maxclust")).long() - 1
    sizes = labels.bincount()
    order = sizes.argsort(descending=True, stable=True).argsort()
    return order[labels].view(spectra.shape[:-1])
