"""Two models on one text: the same words, whatever their tokens."""

import re
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.errors import ArgumentError
from attnchain.files import AbstractResult, Outputs
from attnchain.language.text_reading import TextReading
from attnchain.readouts import column_sums

_SHOWN = 5


@dataclass(frozen=True, eq=False)
class Comparison(AbstractResult):
    """What two readings of one text have in common.

    Ranks of tokens are added up over the words that both models kept, and divided by
    their sum there.

    Attributes:
        first: One reading.
        second: The other.
        words: The words.
        incoming: Incoming rank of the words in both, `(2, words)`.
        outgoing: Outgoing rank, likewise.
        correlation: Spearman's, of the incoming and of the outgoing ranks.
        nearest: For each head of the first, the most similar head of the second
            (layer and head, counted from 0) and the cosine of what their words get.
    """

    ending: ClassVar[str] = "-comparison.json"

    first: TextReading
    second: TextReading
    words: tuple[str, ...]
    incoming: Float[Tensor, "2 words"]
    outgoing: Float[Tensor, "2 words"]
    correlation: tuple[float, float]
    nearest: tuple[tuple[int, int, float], ...]

    def summary(self) -> str:
        lines = [
            f"{self.first.model_name} and {self.second.model_name}, "
            f"{len(self.words)} words",
            f"rank correlation: incoming {self.correlation[0]:.3f}, "
            f"outgoing {self.correlation[1]:.3f}",
        ]
        apart = (self.incoming[0] - self.incoming[1]).abs()
        for word in apart.topk(min(_SHOWN, len(self.words))).indices.tolist():
            one, other = self.incoming[:, word].tolist()
            lines.append(f"  {self.words[word]}: {one:.3f} against {other:.3f}")
        return "\n".join(lines)

    def facts(self) -> dict[str, Any]:
        return {
            "text": self.first.text,
            "models": [self.first.model_name, self.second.model_name],
            "treatments": [self.first.treatment, self.second.treatment],
            "words": self.words,
            "incoming": self.incoming.tolist(),
            "outgoing": self.outgoing.tolist(),
            "rank_correlation": self.correlation,
            "nearest_heads": self.nearest,
        }

    def write(self, outputs: Outputs) -> None:
        """There is no picture beside the numbers."""


def compare(first: TextReading, second: TextReading) -> Comparison:
    """Compares what two models make of one text.

    Args:
        first: A reading.
        second: Another of the same text; tokens and layers may differ.

    Returns:
        `Comparison`.

    Raises:
        ArgumentError: The texts differ, or fewer than two words are in both chains.
    """
    if first.text != second.text:
        message = (
            "compare needs two readings of one text, but these begin "
            f"{first.text[:40]!r} and {second.text[:40]!r}"
        )
        raise ArgumentError(message)
    spans = [match.span() for match in re.finditer(r"\w+|[^\w\s]", first.text)]
    both = [_in_words(reading, spans) for reading in (first, second)]
    shared = (both[0].any(0) & both[1].any(0)).nonzero()[:, 0]
    if len(shared) < 2:
        message = (
            f"the readings share {len(shared)} word(s); give a longer text, or read "
            "with sink='keep'"
        )
        raise ArgumentError(message)
    members = [table[:, shared].double() for table in both]
    readings = list(zip((first, second), members, strict=True))
    incoming = torch.stack([_shares(r.incoming.distribution, m) for r, m in readings])
    outgoing = torch.stack([_shares(r.outgoing.distribution, m) for r, m in readings])
    return Comparison(
        first=first,
        second=second,
        words=tuple(first.text[slice(*spans[i])] for i in shared.tolist()),
        incoming=incoming,
        outgoing=outgoing,
        correlation=(_spearman(incoming), _spearman(outgoing)),
        nearest=_nearest(*(_head_shares(r, m) for r, m in readings)),
    )


def _in_words(reading: TextReading, spans: list[tuple[int, int]]) -> Tensor:
    """Which kept token (rows) has characters of which word (columns)."""
    places = [reading.spans[place] for place in reading.kept]
    return torch.tensor(
        [
            [token is not None and token[0] < b and a < token[1] for a, b in spans]
            for token in places
        ]
    )


def _shares(values: Tensor, members: Tensor) -> Tensor:
    """Values of tokens, split among their words, as shares of all words."""
    parts = members / members.sum(1, keepdim=True).clamp_min(1)
    of_words = values.double().cpu() @ parts
    return of_words / of_words.sum(-1, keepdim=True)


def _head_shares(reading: TextReading, members: Tensor) -> Tensor:
    """What the words get in every head, (layers, heads, words)."""
    return torch.stack(
        [_shares(column_sums(layer), members) for layer in reading.heads]
    )


def _nearest(first: Tensor, second: Tensor) -> tuple[tuple[int, int, float], ...]:
    one, other = (
        torch.nn.functional.normalize(shares.flatten(0, 1), dim=-1)
        for shares in (first, second)
    )
    best = (one @ other.T).max(1)
    heads = second.shape[1]
    return tuple(
        (place // heads, place % heads, round(cosine, 6))
        for place, cosine in zip(
            best.indices.tolist(), best.values.tolist(), strict=True
        )
    )


def _spearman(ranks: Tensor) -> float:
    from scipy.stats import spearmanr

    return float(cast("Any", spearmanr(*ranks.numpy())).statistic)
