"""The attention that a token receives."""

from jaxtyping import Float
from torch import Tensor

from attnchain.methods.pruning.token_scores import AbstractTokenScore, LayerReading


class ColumnSumScore(AbstractTokenScore):
    r"""The column sum of the mean head, as a mean: $\frac1n \sum_i P_{ij}$.

    One bounce of a walk that starts anywhere, so the first step of `TokenRankScore`.

    Example:
        >>> import torch
        >>> web = torch.tensor([[0.0, 1.0], [0.5, 0.5]])[None, None]
        >>> ColumnSumScore().of(LayerReading(web, web, prefix=0))
        tensor([[0.2500, 0.7500]])
    """

    def of(self, reading: LayerReading) -> Float[Tensor, "pictures n"]:
        return reading.attention.mean((1, 2))
