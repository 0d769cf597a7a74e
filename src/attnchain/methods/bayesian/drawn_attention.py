"""Multi-head attention whose weights are drawn while it learns."""

# pyright: reportUnknownMemberType=false

from typing import Any, Literal, Self

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from attnchain.checks import check_choice, check_count, check_whole
from attnchain.errors import ArgumentError, ShapeError
from attnchain.methods.bayesian.weight_families import AbstractWeights

Prior = Literal["contextual", "constant"]


class BayesianAttention(nn.Module):
    r"""Multi-head attention with random weights, and their divergence from a prior.

    With $p = \mathrm{softmax}(QK^\top/\sqrt d)$ the output is $WV$, where $W = S /
    \sum S$ is drawn with $E[S] = p$. Add `weight * attention.kl` to the loss; the paper
    lets the weight rise as sigmoid(rate * step), from one half. Without sampling W is
    p: ordinary attention, fused, read by `attnchain.capture`.

    The contextual prior depends on the keys alone: q_j is a softmax over the keys that
    a query may attend to of a perceptron with one hidden layer (the released code takes
    it over all keys, masked or not). The constant one is 1 for every key.

    Args:
        width: Channels in and out.
        heads: Number of heads; divides the width.
        family: How weights are drawn, and the prior's other parameter.
        prior: "contextual" or "constant".
        hidden: Units of the perceptron.
        bias: Whether the projections have offsets.

    Attributes:
        sampling: Draw weights always (True), never (False), or while training (None,
            the default). Set True after training to see uncertainty, without dropout.

    Raises:
        ArgumentError: Heads do not divide the width, an unknown prior or family.

    Sources:
        Fan et al., Bayesian Attention Modules, NeurIPS 2020, arXiv 2010.10604.

    Example:
        >>> import torch
        >>> from attnchain.methods import BayesianAttention, WeibullWeights
        >>> attention = BayesianAttention(8, 2, WeibullWeights(10.0))
        >>> attention(torch.ones(1, 5, 8)).shape, attention.kl.shape
        (torch.Size([1, 5, 8]), torch.Size([]))
    """

    def __init__(
        self,
        width: int,
        heads: int,
        family: AbstractWeights,
        *,
        prior: Prior = "contextual",
        hidden: int = 10,
        bias: bool = True,
    ) -> None:
        super().__init__()
        check_whole(width, "width")
        check_count(heads, "heads", low=1, high=width, meaning="at most the width")
        check_choice(prior, ("contextual", "constant"), "prior")
        check_whole(hidden, "hidden")
        if width % heads:
            raise ArgumentError(f"heads must divide the width {width}, but is {heads}")
        if not isinstance(family, AbstractWeights):
            message = f"family must be a family of weights, but is {family!r}"
            raise ArgumentError(message)
        self.heads, self.family = heads, family
        self.sampling: bool | None = None
        self.query, self.key, self.value, self.out = (
            nn.Linear(width, width, bias=bias) for _ in range(4)
        )
        self.prior = None if prior == "constant" else _perceptron(width, heads, hidden)
        self._kl: Tensor | None = None

    @classmethod
    def from_multihead(
        cls,
        attention: nn.MultiheadAttention,
        family: AbstractWeights,
        *,
        prior: Prior = "contextual",
        hidden: int = 10,
    ) -> Self:
        """The same attention, with a copy of its weights, that can be drawn.

        Args:
            attention: Batch first, one width, without dropout or added keys.
            family: As above.
            prior: As above.
            hidden: As above.

        Raises:
            ArgumentError: It computes something else than this class does.
        """
        _check_multihead(attention)
        bias = attention.in_proj_bias is not None
        width, heads = attention.embed_dim, attention.num_heads
        made = cls(width, heads, family, prior=prior, hidden=hidden, bias=bias)
        linear = (made.query, made.key, made.value, made.out)
        weights = (*attention.in_proj_weight.chunk(3), attention.out_proj.weight)
        with torch.no_grad():
            for one, weight in zip(linear, weights, strict=True):
                one.weight.copy_(weight)
            if bias:
                offsets = (*attention.in_proj_bias.chunk(3), attention.out_proj.bias)
                for one, offset in zip(linear, offsets, strict=True):
                    one.bias.copy_(offset)
        return made.to(attention.in_proj_weight).train(attention.training)

    @property
    def kl(self) -> Float[Tensor, ""]:
        """Divergence of the last call, mean over allowed (query, key) pairs, in nats.

        Raises:
            ArgumentError: The last call drew nothing, or there was none.
        """
        if self._kl is None:
            message = (
                "kl is that of a call that drew weights, and the last one did not: "
                "call .train(), or set .sampling = True, and run the model first"
            )
            raise ArgumentError(message)
        return self._kl

    def forward(
        self,
        x: Float[Tensor, "b n width"],
        context: Float[Tensor, "b m width"] | None = None,
        *,
        mask: Bool[Tensor, "..."] | None = None,
        generator: Generator | None = None,
    ) -> Float[Tensor, "b n width"]:
        """Attention from x to the context.

        Args:
            x: Tokens that ask.
            context: Tokens that are attended to; x itself by default.
            mask: True where a query may attend to a key; broadcast to
                `(b, heads, n, m)`.
            generator: Source of the noise; torch's global one by default.

        Raises:
            ShapeError: The mask is not of truth values.
            ArgumentError: A query may attend to nothing.
        """
        _check_mask(mask)
        context = x if context is None else context
        query, key, value = (
            linear(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for linear, tokens in (
                (self.query, x),
                (self.key, context),
                (self.value, context),
            )
        )
        self._kl = None
        if self.training if self.sampling is None else self.sampling:
            seen = self._weights(query, key, mask, generator) @ value
        else:
            seen = scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(seen.transpose(1, 2).flatten(2))

    def _weights(
        self,
        query: Tensor,
        key: Tensor,
        mask: Tensor | None,
        generator: Generator | None,
    ) -> Tensor:
        log_weights = _log_softmax(query @ key.mT / key.shape[-1] ** 0.5, mask)
        if self.prior is None:
            prior = torch.ones_like(log_weights)
        else:
            scores = self.prior(key).mT.expand_as(log_weights)
            tiny = torch.finfo(scores.dtype).tiny
            prior = _log_softmax(scores, mask).exp().clamp_min(tiny)
        divergence = self.family.divergence(log_weights, prior)
        self._kl = divergence.sum() / (log_weights != -torch.inf).sum()
        return self.family.sample(log_weights, generator).softmax(-1)

    def __getstate__(self) -> dict[str, Any]:
        # A divergence with a graph behind it can neither be copied nor written.
        return {**self.__dict__, "_kl": None}


def _perceptron(width: int, heads: int, hidden: int) -> nn.Sequential:
    into = nn.Linear(width // heads, hidden)
    return nn.Sequential(into, nn.ReLU(), nn.Linear(hidden, 1))


def _log_softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.log_softmax(-1)


def _check_mask(mask: Tensor | None) -> None:
    if mask is None:
        return
    if mask.dtype != torch.bool:
        message = f"mask must be of truth values (torch.bool), but has {mask.dtype}"
        raise ShapeError(message)
    if not bool(mask.any(-1).all()):
        message = (
            "mask leaves a query without any key to attend to; leave such queries out"
        )
        raise ArgumentError(message)


def _check_multihead(attention: nn.MultiheadAttention) -> None:
    same = (
        attention.batch_first
        and attention.in_proj_weight is not None
        and attention.bias_k is None
        and not attention.add_zero_attn
        and attention.dropout == 0
    )
    if not same:
        message = (
            "attention must be batch first, of one width, without added keys and with "
            f"dropout 0 (the noise takes its place), but is {attention!r} with "
            f"batch_first={attention.batch_first}, dropout={attention.dropout}"
        )
        raise ArgumentError(message)
