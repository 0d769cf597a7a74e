"""A chain whose weights are random, and the distribution of what one asks of it."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from attnchain.checks import check_count, check_floating, check_whole
from attnchain.errors import ArgumentError, ShapeError
from attnchain.methods.bayesian.weight_families import AbstractWeights
from attnchain.operators import AbstractTransition, DenseTransition, check_transition


@dataclass(frozen=True, eq=False)
class Draws:
    """Answers of a random chain, beside the answer of the chain itself.

    Attributes:
        own: What the chain itself answers, `(*shape)`, float64.
        drawn: What each drawn chain answers, `(draws, *shape)`, float64.
    """

    own: Float[Tensor, "*shape"]
    drawn: Float[Tensor, "draws *shape"]

    @property
    def bias(self) -> Float[Tensor, "*shape"]:
        """Mean of the drawn answers minus the own one."""
        return self.drawn.mean(0) - self.own

    def interval(
        self, level: float = 0.95
    ) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        """Quantiles that hold a share of the drawn answers between them.

        Args:
            level: The share, in (0, 1).

        Raises:
            ArgumentError: The level is none, or asks for more draws than there are:
                fewer than one would lie beyond each end.
        """
        known = isinstance(level, float) and 0 < level < 1
        needed = ceil(round(2 / (1 - level), 6)) if known else 0
        if not known or len(self.drawn) < needed:
            many = f"{needed} draws or more for it" if known else "a number in (0, 1)"
            message = f"level must have {many}, but is {level!r} with {len(self.drawn)}"
            raise ArgumentError(message)
        tail = (1 - level) / 2
        ends = torch.tensor([tail, 1 - tail]).to(self.drawn)
        low, high = self.drawn.quantile(ends, 0)
        return low, high

    def ranks(self) -> "Draws":
        """Ranks along the last axis, 1 for the largest; equal answers share theirs.

        Raises:
            ShapeError: Answers are single numbers.
        """
        self._check_rankable()
        return Draws(_ranks(self.own), _ranks(self.drawn))

    def among_top(self, count: int) -> Float[Tensor, "*shape"]:
        """Share of the draws in which each state is among the largest.

        Args:
            count: How many are the largest.

        Raises:
            ShapeError: Answers are single numbers.
            ArgumentError: The count is not between 1 and the number of states.
        """
        self._check_rankable()
        n = self.own.shape[-1]
        check_count(count, "count", low=1, high=n, meaning="of the states")
        return (_ranks(self.drawn) <= count).double().mean(0)

    def _check_rankable(self) -> None:
        if self.own.ndim == 0:
            message = "ranks are of answers with a number for each state; got scalars"
            raise ShapeError(message)


@dataclass(frozen=True, eq=False)
class RandomTransition:
    r"""A random transition matrix $W_{ij} = S_{ij} / \sum_l S_{il}$ around P, E[S] = P.

    Drawing chains turns what one asks of a chain (pi, lambda_2, a rank) into a
    distribution of it. For a model that was not trained with such noise this is a
    **sensitivity analysis**, not a posterior: it says what survives noise of a size
    that you choose. Weibull and log-normal rows have a mean flatter than P,
    `DirichletWeights` have P itself.

    Args:
        chain: One chain or a batch; its matrix is stored.
        family: How weights vary around those of the chain.

    Raises:
        ArgumentError: No chain, or no family of weights.
        ShapeError: A chain with padding.

    Sources:
        Fan et al., Bayesian Attention Modules, NeurIPS 2020, arXiv 2010.10604; the
        reading as a chain is ours.

    Example:
        >>> import torch
        >>> from attnchain import as_transition, stationary
        >>> from attnchain.methods import DirichletWeights, RandomTransition
        >>> two = as_transition(torch.tensor([[0.9, 0.1], [0.5, 0.5]]).double())
        >>> random = RandomTransition(two, DirichletWeights(1e8))
        >>> found = random.ask(
        ...     lambda chain: stationary(chain).distribution,
        ...     draws=40,
        ...     generator=torch.Generator().manual_seed(0),
        ... )
        >>> found.interval()[0].round(decimals=2)
        tensor([0.8300, 0.1700], dtype=torch.float64)
    """

    chain: AbstractTransition
    family: AbstractWeights

    def __post_init__(self) -> None:
        check_transition(self.chain, "chain")
        if not isinstance(self.family, AbstractWeights):
            message = (
                "family must be WeibullWeights, LogNormalWeights or DirichletWeights, "
                f"but is {self.family!r}"
            )
            raise ArgumentError(message)
        if self.chain.live is not None:
            message = (
                "a random transition takes chains without padding; ask each text's "
                f"own chain (chain.chains()), not {self.chain!r}"
            )
            raise ShapeError(message)

    def sample(self, generator: Generator) -> DenseTransition:
        """One draw: a chain or batch like the given one, all its weights drawn anew.

        Args:
            generator: Source of the noise, on the chain's device.
        """
        return self._drawn(self._log_weights(), generator)

    @torch.no_grad()
    def ask(
        self,
        question: Callable[[AbstractTransition], Tensor],
        *,
        draws: int,
        generator: Generator,
    ) -> Draws:
        """Answers of drawn chains: their distribution, intervals and ranks.

        Args:
            question: A function of a chain with the same shape of answer each time,
                for example `lambda chain: token_rank(chain).distribution`.
            draws: How many chains are drawn, one in memory at a time.
            generator: Source of the noise, on the chain's device.

        Raises:
            ArgumentError: Fewer than two draws, or an answer that is no tensor.
            ShapeError: Answers of several shapes, or not of floating point.
        """
        check_whole(draws, "draws", least=2)
        logs = self._log_weights()
        own = _answer(question(self.chain))
        found = [_answer(question(self._drawn(logs, generator))) for _ in range(draws)]
        shapes = {tuple(one.shape) for one in (own, *found)}
        if len(shapes) > 1:
            message = f"answers must have one shape, but have {sorted(shapes)}"
            raise ShapeError(message)
        return Draws(own, torch.stack(found))

    def _log_weights(self) -> Tensor:
        return self.chain.to_dense().log()

    def _drawn(self, logs: Tensor, generator: Generator) -> DenseTransition:
        drawn = self.family.sample(logs, generator).softmax(-1)
        return DenseTransition(drawn, axes=self.chain.axes)


def _answer(answer: Tensor) -> Tensor:
    check_floating(answer, "the answer to the question")
    return answer.double()


def _ranks(values: Tensor) -> Tensor:
    ordered = values.sort(-1).values
    at_most = torch.searchsorted(ordered, values.contiguous(), right=True)
    return (values.shape[-1] - at_most + 1).double()
