"""Zero-TPrune: tokens vote for tokens, and tokens that are alike leave.

From the description in Wang, Dedhia, Jha, *Zero-TPrune*, CVPR 2024, arXiv 2305.17328;
no code of the authors was found. Ours, where the paper leaves it open: the scale on
which the variance of a head is measured, that all heads count where none fits, and
that both steps look at the same layer.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attnchain.checks import check_fraction, check_positive, check_whole
from attnchain.errors import ArgumentError
from attnchain.methods.pruning.token_scores import (
    AbstractTokenScore,
    LayerReading,
    largest,
)


class ZeroTPruneScore(AbstractTokenScore):
    r"""Weighted PageRank of every head, heads of odd variance left out, then likeness.

    Voting: $s_h \leftarrow s_h P_h$ from the uniform vector, some rounds (undamped).
    Heads whose scores have a variance outside the limits, measured on $n s_h$ (mean
    1), are left out; the others are put together as
    $s = \sqrt{\frac{1}{|H|} \sum_{h \in H} s_h^2}$.

    Likeness: by one round of voting the patches are halved; those of the less
    important half whose key (all heads together) has the largest cosine to one of the
    other half leave first. The rest leave by their votes.

    Args:
        rounds: Bounces of the voting.
        alike: Share, in [0, 0.5], of the leaving patches that leave for being alike.
        least: Smallest variance of a head that counts.
        most: Largest one.

    Raises:
        ArgumentError: A number outside its range.
    """

    def __init__(
        self,
        rounds: int = 30,
        alike: float = 0.5,
        least: float = 0.01,
        most: float = 0.7,
    ) -> None:
        check_whole(rounds, "rounds")
        check_fraction(alike, "alike", zero=True)
        check_positive(least, "least")
        check_positive(most, "most")
        if alike > 0.5 or least >= most:
            message = (
                f"alike must lie in [0, 0.5] and least below most, but they are "
                f"{alike}, {least} and {most}"
            )
            raise ArgumentError(message)
        self._rounds, self._alike, self._limits = rounds, alike, (least, most)

    def of(self, reading: LayerReading) -> Float[Tensor, "pictures n"]:
        return self._votes(reading.attention, self._rounds)

    def kept(self, reading: LayerReading, count: int) -> Int[Tensor, "pictures count"]:
        patches = slice(reading.prefix, None)
        first = self._votes(reading.attention, 1)[:, patches]
        votes = self.of(reading)[:, patches].clone()
        leaving = round(self._alike * (votes.shape[1] - count))
        alike = _most_alike(first, reading.keys[:, :, patches], leaving)
        return largest(votes.scatter_(1, alike, -torch.inf), count)

    def _votes(self, attention: Tensor, rounds: int) -> Float[Tensor, "pictures n"]:
        n = attention.shape[-1]
        scores = attention.new_full((*attention.shape[:2], 1, n), 1 / n)
        for _ in range(rounds):
            scores = scores @ attention
        scores = scores[:, :, 0]
        least, most = self._limits
        variance = (n * scores).var(-1, correction=0)
        counts = (variance >= least) & (variance <= most)
        counts |= ~counts.any(1, keepdim=True)
        counts = counts[..., None]
        return ((scores.square() * counts).sum(1) / counts.sum(1)).sqrt()


def _most_alike(
    votes: Float[Tensor, "pictures m"],
    keys: Float[Tensor, "pictures heads m d"],
    leaving: int,
) -> Int[Tensor, "pictures leaving"]:
    """Patches of the less important half that have the closest likes in the other."""
    order = votes.argsort(dim=-1, stable=True)
    half = votes.shape[1] // 2
    unit = torch.nn.functional.normalize(keys.transpose(1, 2).flatten(2), dim=-1)
    sorted_units = unit.gather(1, order[..., None].expand_as(unit))
    cosines = sorted_units[:, :half] @ sorted_units[:, half:].mT
    closest = largest(cosines.amax(-1), leaving)
    return order.gather(1, closest)
