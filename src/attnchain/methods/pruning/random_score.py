"""Any patches: the row that every table of scores needs."""

import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.checks import check_whole
from attnchain.methods.pruning.token_scores import AbstractTokenScore, LayerReading


class RandomScore(AbstractTokenScore):
    """Random numbers, drawn anew in every run of the model.

    Args:
        seed: Of the draws, which go on from run to run.

    Raises:
        ArgumentError: A seed that is no whole number >= 0.
    """

    def __init__(self, seed: int = 0) -> None:
        check_whole(seed, "seed", least=0)
        self._generator = torch.Generator().manual_seed(seed)

    def of(self, reading: LayerReading) -> Float[Tensor, "pictures n"]:
        pictures, _, n, _ = reading.attention.shape
        drawn = torch.rand(pictures, n, generator=self._generator)
        return drawn.to(reading.attention.device)
