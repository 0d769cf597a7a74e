"""The attention that the class token pays."""

from jaxtyping import Float
from torch import Tensor

from attnchain.errors import ArgumentError
from attnchain.methods.pruning.token_scores import AbstractTokenScore, LayerReading


class ClassRowScore(AbstractTokenScore):
    """The first token's row of the mean head, one bounce of a walk that starts there.

    Example:
        >>> import torch
        >>> web = torch.tensor([[0.0, 1.0], [0.5, 0.5]])[None, None]
        >>> ClassRowScore().of(LayerReading(web, web, prefix=1))
        tensor([[0., 1.]])
    """

    def of(self, reading: LayerReading) -> Float[Tensor, "pictures n"]:
        """Scores of all tokens.

        Args:
            reading: The layer.

        Raises:
            ArgumentError: The model has no token before its patches.
        """
        if not reading.prefix:
            message = (
                "ClassRowScore needs a class token, and this model has none before its "
                "patches; use ColumnSumScore or TokenRankScore"
            )
            raise ArgumentError(message)
        return reading.attention[:, :, 0].mean(1)
