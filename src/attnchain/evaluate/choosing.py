"""Settings chosen on one half of the pictures, and how sure a mean is."""

from collections.abc import Callable, Iterable, Sequence

import torch

from attnchain.evaluate.lines import Record
from attnchain.evaluate.method import Method

Score = Callable[[list[Record]], float]


def halves(
    records: list[Record], marked: set[str]
) -> tuple[list[Record], list[Record]]:
    """The half to choose on and the half to report on.

    Args:
        records: One for each picture.
        marked: Names of the first half.
    """
    first = [record for record in records if record["picture"] in marked]
    second = [record for record in records if record["picture"] not in marked]
    return first, second


def of_method(records: list[Record], name: str) -> list[Record]:
    """The scores of one method, picture by picture."""
    return [record["scores"][name] for record in records]


def best_settings(
    methods: Iterable[Method], records: list[Record], score: Score
) -> list[Method]:
    """For each family the setting of highest score; the first one where equal.

    Args:
        methods: Methods with their settings.
        records: The half to choose on.
        score: From the scores of one method to the number to be large.

    Returns:
        One method for each family, by decreasing score.
    """
    best: dict[str, tuple[float, Method]] = {}
    for method in methods:
        value = score(of_method(records, method.name))
        if method.family not in best or value > best[method.family][0]:
            best[method.family] = (value, method)
    return [m for _, m in sorted(best.values(), key=lambda pair: -pair[0])]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % bootstrap interval of a mean (2,000 draws, fixed seed).

    Example:
        >>> interval([0.5, 0.5, 0.5])
        (0.5, 0.5)
    """
    sample = torch.tensor(values, dtype=torch.float64)
    draw = torch.Generator().manual_seed(0)
    index = torch.randint(len(sample), (2000, len(sample)), generator=draw)
    low, high = sample[index].mean(1).quantile(torch.tensor([0.025, 0.975]).double())
    return float(low), float(high)


def mean_of(scores: list[Record], field: str) -> float:
    """Mean of one number over the pictures."""
    return sum(score[field] for score in scores) / len(scores)


def failures(scores: list[Record]) -> int:
    """On how many pictures a method gave nothing and was scored as empty."""
    return sum("failed" in score for score in scores)
