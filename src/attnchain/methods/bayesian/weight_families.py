"""Families of random attention weights, each with mean p, and their divergences."""

# pyright: reportUnknownMemberType=false, reportPrivateImportUsage=false

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import cast

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from attnchain.checks import check_floating, check_positive
from attnchain.errors import NotStochasticError

_EULER = 0.5772156649015329


@dataclass(frozen=True)
class AbstractWeights(ABC):
    """Independent random weights S_j > 0 with mean E[S_j] = p_j; W = S / sum S.

    Everything is entry by entry, so that it serves a matrix of scores and the edges of
    a graph alike. Where ln p is -inf there is no weight, no noise and no divergence.
    """

    def __post_init__(self) -> None:
        for field in fields(self):
            check_positive(getattr(self, field.name), field.name)

    def sample(
        self, log_weights: Float[Tensor, "..."], generator: Generator | None = None
    ) -> Float[Tensor, "..."]:
        """Logarithms of S, reparametrised: gradients flow to ln p. Softmax gives W.

        Args:
            log_weights: ln p, for example the log-softmax of scores.
            generator: Source of the noise; torch's global one by default.

        Raises:
            ShapeError: Not of floating point.
        """
        check_floating(log_weights, "log_weights")
        some, known = _supported(log_weights)
        return torch.where(some, self._draw(known, generator), log_weights)

    def divergence(
        self, log_weights: Float[Tensor, "..."], prior: Float[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        """KL(S || prior weights) in nats, entry by entry, in closed form.

        Normalising S and the prior alike can only bring them nearer, so the sum over a
        row bounds the divergence between the distributions of W.

        Args:
            log_weights: ln p.
            prior: Weights q > 0 that the prior has where these have p.

        Raises:
            ShapeError: Not of floating point.
            NotStochasticError: A weight of the prior is not above 0.
        """
        check_floating(log_weights, "log_weights")
        check_floating(prior, "prior")
        if not bool((prior > 0).all()):
            smallest = float(prior.detach().min())
            message = (
                f"weights of the prior must be > 0, but one is {smallest:.3g}; "
                "leave out what has no weight by ln p = -inf"
            )
            raise NotStochasticError(message)
        some, known = _supported(log_weights)
        return torch.where(some, self._kl(known, prior), 0.0)

    def relative_deviation(self, weights: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Standard deviation of S divided by its mean p.

        Args:
            weights: p > 0.
        """
        return self._relative_variance(weights).expand_as(weights).sqrt()

    @abstractmethod
    def _relative_variance(self, weights: Tensor) -> Tensor: ...

    @abstractmethod
    def _draw(self, log_weights: Tensor, generator: Generator | None) -> Tensor: ...

    @abstractmethod
    def _kl(self, log_weights: Tensor, prior: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class WeibullWeights(AbstractWeights):
    r"""$S = \lambda E^{1/k}$, E exponential, $\lambda = p / \Gamma(1 + 1/k)$.

    The relative deviation is about 1.28 / k whatever p is. Normalising biases: E[W] is
    flatter than p, by less as k grows. The prior is Gamma with shape $\beta q$ and
    rate $\beta$, and with $\lambda$, $\alpha = \beta q$, Euler's $\gamma$:

    $KL = \gamma\alpha/k - \alpha\ln\lambda + \ln k + \beta p - \gamma - 1
    - \alpha\ln\beta + \ln\Gamma(\alpha)$.

    Args:
        shape: k > 0; large is certain. The released code's 1000 is nearly softmax.
        rate: beta > 0, the prior's.

    Raises:
        ArgumentError: A parameter is no number > 0.

    Sources:
        Fan et al., Bayesian Attention Modules, NeurIPS 2020, arXiv 2010.10604.

    Example:
        >>> import torch
        >>> certain = WeibullWeights(1e6).sample(torch.tensor([0.25, 0.75]).log())
        >>> certain.softmax(-1).round(decimals=3)
        tensor([0.2500, 0.7500])
    """

    shape: float
    rate: float = 1.0

    def _relative_variance(self, weights: Tensor) -> Tensor:
        first, second = math.lgamma(1 + 1 / self.shape), math.lgamma(1 + 2 / self.shape)
        return weights.new_tensor(math.expm1(second - 2 * first))

    def _draw(self, log_weights: Tensor, generator: Generator | None) -> Tensor:
        noise = torch.empty_like(log_weights).exponential_(generator=generator)
        tiny = torch.finfo(noise.dtype).tiny
        scale = log_weights - math.lgamma(1 + 1 / self.shape)
        return scale + noise.clamp_min(tiny).log() / self.shape

    def _kl(self, log_weights: Tensor, prior: Tensor) -> Tensor:
        k, beta, alpha = self.shape, self.rate, self.rate * prior
        log_scale = log_weights - math.lgamma(1 + 1 / k)
        constant = math.log(k) - _EULER - 1
        likely = alpha * (_EULER / k - log_scale) + beta * log_weights.exp()
        return likely + constant - alpha * math.log(beta) + alpha.lgamma()


@dataclass(frozen=True)
class LogNormalWeights(AbstractWeights):
    r"""$S = \exp(\ln p - \sigma^2/2 + \sigma\varepsilon)$, $\varepsilon$ normal.

    The relative deviation is $\sqrt{e^{\sigma^2} - 1}$ whatever p is. Normalising
    biases: E[W] is flatter than p. The prior is log-normal around ln q, and KL that of
    the normal logarithms, $\ln(\sigma_0/\sigma) + (\sigma^2 + (\ln q - \ln p +
    \sigma^2/2)^2) / (2\sigma_0^2) - 1/2$.

    Args:
        deviation: sigma > 0, of ln S.
        prior_deviation: sigma_0 > 0, of the prior's logarithm.

    Raises:
        ArgumentError: A parameter is no number > 0.

    Sources:
        As `WeibullWeights`.

    Example:
        >>> import torch
        >>> p = torch.tensor([0.25, 0.75])
        >>> LogNormalWeights(1.0).divergence(p.log(), p)  # sigma^4 / 8
        tensor([0.1250, 0.1250])
    """

    deviation: float
    prior_deviation: float = 1.0

    def _relative_variance(self, weights: Tensor) -> Tensor:
        return weights.new_tensor(math.expm1(self.deviation**2))

    def _draw(self, log_weights: Tensor, generator: Generator | None) -> Tensor:
        noise = torch.empty_like(log_weights).normal_(generator=generator)
        return log_weights - self.deviation**2 / 2 + self.deviation * noise

    def _kl(self, log_weights: Tensor, prior: Tensor) -> Tensor:
        variance, wide = self.deviation**2, self.prior_deviation**2
        off = prior.log() - log_weights + variance / 2
        ratio = math.log(self.prior_deviation / self.deviation)
        return ratio + (variance + off.square()) / (2 * wide) - 0.5


@dataclass(frozen=True)
class DirichletWeights(AbstractWeights):
    r"""$S \sim \mathrm{Gamma}(c\,p, c)$, so that W is Dirichlet(c p) exactly.

    The one family here that normalising does not bias: E[W] = p, where p sums to one.
    The relative deviation $1/\sqrt{c\,p}$ is largest for small weights. Ours, not the
    paper's. The prior is Gamma with shape $\alpha = \beta q$ and rate $\beta$:

    $KL = (a - \alpha)\,\psi(a) - \ln\Gamma(a) + \ln\Gamma(\alpha) +
    \alpha\ln(c/\beta) + a\,(\beta - c)/c$ with a = c p; it grows like $\alpha/a$ for
    weights near 0.

    Args:
        concentration: c > 0; a weight's variance is p (1 - p) / (c + 1).
        rate: beta > 0, the prior's.

    Raises:
        ArgumentError: A parameter is no number > 0.

    Example:
        >>> import torch
        >>> p = torch.tensor([0.25, 0.75])
        >>> DirichletWeights(4.0, rate=4.0).divergence(p.log(), p)
        tensor([0., 0.])
    """

    concentration: float
    rate: float = 1.0

    def _relative_variance(self, weights: Tensor) -> Tensor:
        return 1 / (self.concentration * weights)

    def _draw(self, log_weights: Tensor, generator: Generator | None) -> Tensor:
        # torch.distributions takes no generator; this is what its Gamma calls.
        drawn = cast(
            "Tensor",
            torch._standard_gamma(self._shapes(log_weights), generator=generator),
        )
        return drawn.log() - math.log(self.concentration)

    def _kl(self, log_weights: Tensor, prior: Tensor) -> Tensor:
        c, beta, alpha = self.concentration, self.rate, self.rate * prior
        a = self._shapes(log_weights)
        moved = (a - alpha) * a.digamma() - a.lgamma() + alpha.lgamma()
        return moved + alpha * math.log(c / beta) + a * (beta - c) / c

    def _shapes(self, log_weights: Tensor) -> Tensor:
        tiny = torch.finfo(log_weights.dtype).tiny
        return (self.concentration * log_weights.exp()).clamp_min(tiny)


def _supported(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Where there is weight, and ln p with any number in the other places."""
    some = log_weights != -math.inf
    return some, torch.where(some, log_weights, 0.0)
