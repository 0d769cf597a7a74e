"""Relevance: what a score owes to each token, over all layers (arXiv 2308.10240)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.capturing import AbstractRecord, CapturedAttention, attention_gradients
from attnchain.checks import check_choice, check_count, check_distribution
from attnchain.errors import ArgumentError, ShapeError
from attnchain.markov import mix
from attnchain.operators import Lazy, Product, Stacked

Captured = CapturedAttention | Sequence[AbstractRecord]
Weights = float | Sequence[Tensor] | None


@dataclass(frozen=True, eq=False)
class Relevance:
    """How much each token counts for each token of the last layer.

    Attributes:
        matrix: Entry i, j: what token i after the last layer owes to token j of the
            input, `(pictures, n, n)`. Rows sum to one where every step was a chain;
            else they grow, see `row_sums`.
    """

    matrix: Float[Tensor, "pictures n n"]

    @property
    def row_sums(self) -> Float[Tensor, "pictures n"]:
        """What each row sums to: 1 for a product of chains, more for Chefer's rule."""
        return self.matrix.sum(-1)

    def of(self, start: int | Tensor) -> Float[Tensor, "pictures n"]:
        """Relevance for one token, or for a mean of several.

        The token's own entry holds what came by the skip connections.

        Args:
            start: A token, such as the class token, or a distribution over tokens, such
                as the pooling of a sentence encoder: `(n,)` or `(pictures, n)`.

        Raises:
            ArgumentError: There is no such token.
            ShapeError: The distribution has another number of tokens.
            NotStochasticError: It is no distribution.
        """
        n = self.matrix.shape[-1]
        if not isinstance(start, Tensor):
            check_count(start, "start", low=-n, high=n - 1, meaning="tokens")
            return self.matrix[:, start]
        check_distribution(start, n, "start")
        return (start.to(self.matrix)[..., None, :] @ self.matrix)[..., 0, :]


@dataclass(frozen=True, eq=False)
class CrossRelevance:
    """How much the tokens of two streams count for each other.

    Attributes:
        matrix: As of `Relevance`, over the tokens of both, the first stream's first.
        streams: Name of each stream and its number of tokens.
    """

    matrix: Float[Tensor, "pictures n n"]
    streams: Mapping[str, int]

    def between(self, stream: str, source: str) -> Float[Tensor, "pictures n m"]:
        """What the tokens of one stream owe to those of one, the other or itself.

        Args:
            stream: The stream of the rows.
            source: The stream of the columns.

        Raises:
            ArgumentError: There is no such stream.
        """
        for given, name in ((stream, "stream"), (source, "source")):
            check_choice(given, tuple(self.streams), name)
        parts = _parts(self.streams)
        return self.matrix[:, parts[stream], parts[source]]


def rollout(captured: Captured) -> Stacked:
    r"""Attention rollout: $\prod_l (I + \bar A_l) / 2$, as a product of lazy chains.

    A row is where the information of a token came from, if every layer mixed half of
    its input with the mean of its heads. Nothing n x n is stored:
    `rollout(captured).push(start)` is one row of it. `relevance(captured, weights=0.5)`
    is the same as a matrix.

    Args:
        captured: Self-attention of all layers, in order of execution.

    Returns:
        A chain for each picture or text, a `Product` whose first factor is the last
        layer; padding is no state of it.

    Raises:
        ArgumentError: There is nothing, or there are several passes.
        ShapeError: Layers of different numbers of tokens.

    Sources:
        Abnar and Zuidema, Quantifying Attention Flow in Transformers, 2020.
    """
    layers = [mix(record.transition(), "uniform") for record in _layers(captured)]
    pictures = zip(*(layer.chains() for layer in reversed(layers)), strict=True)
    members = [Product([Lazy(c, 0.5) for c in picture]) for picture in pictures]
    live = _layers(captured)[0].live
    return Stacked(members, live, layers[0].axes)


def relevance(
    captured: Captured,
    *,
    gradient: Tensor | None = None,
    weights: Weights = None,
    normalize: bool = False,
) -> Relevance:
    r"""Relevance accumulated over layers, with or without a score's gradient.

    From $R = I$ on, each layer, the first one first, gives

    $$R \leftarrow \operatorname{diag}(w) R + \operatorname{diag}(1 - w) \bar A R,
    \quad \bar A = \tfrac{1}{H} \sum_h (\nabla A_h \odot A_h)^+$$

    or, without weights, $R \leftarrow R + \bar A R$, which is Chefer's rule. Without a
    gradient $\bar A$ is the mean of the heads, and weights of 1/2 are `rollout`. With
    weights and rows of $\bar A$ that sum to one, each layer is a lazy chain that stays
    with probability w, and R is an inhomogeneous product of chains.

    Args:
        captured: Self-attention of all layers; of `capture(model, gradients=True)`
            where a gradient is given.
        gradient: The score, one number with its graph: the logit of a class, or an
            embedding along a fixed direction. The cosine of an embedding with itself
            has a gradient of zero.
        weights: Share w of what a token was before the layer: one number, or for each
            layer a tensor `(n,)` or `(pictures, n)`, as from `residual_shares`.
        normalize: Whether rows of $\bar A$ are divided by their sums; a row without any
            relevance stays where it is.

    Returns:
        `Relevance`.

    Raises:
        ArgumentError: There is nothing, or there are several passes; no such score; or
            weights outside [0, 1].
        ShapeError: Layers of different numbers of tokens, or weights that do not fit.
        CaptureError: The score depends on none of the layers.

    Cost:
        One backward pass; per layer an n x n matrix for each head, and O(n^3).

    Sources:
        Chefer, Gur and Wolf, arXiv 2103.15679; Huang et al., arXiv 2308.10240, weigh
        what was there before attention and what came by it. Their weights are not
        published: `residual_shares` is a reconstruction of ours.

    Example:
        >>> import attnchain
        >>> encoder = torch.nn.TransformerEncoderLayer(8, nhead=2, batch_first=True)
        >>> with attnchain.capture(encoder.eval()) as attention:
        ...     _ = encoder(torch.zeros(1, 3, 8))
        >>> relevance(attention, weights=0.5).of(0)
        tensor([[0.6667, 0.1667, 0.1667]])
    """
    records = _layers(captured)
    total = _identity(records[0], records[0].shape[-1])
    for flow, share in _steps(records, gradient, weights, normalize):
        total = _moved(total, flow @ total, share)
    return Relevance(matrix=total)


def cross_relevance(
    captured: Captured,
    streams: Mapping[str, int],
    *,
    gradient: Tensor | None = None,
    weights: Weights = None,
    normalize: bool = False,
    simultaneous: bool = False,
) -> CrossRelevance:
    r"""Relevance over two streams that attend to themselves and to each other.

    Self-attention of stream s adds $\bar A R_{s\cdot}$ to both its blocks. Where s
    attends to q, Chefer's rule adds $\bar R_{ss}^\top \bar A \bar R_{qq}$ to $R_{sq}$
    and $\bar A R_{qs}$ to $R_{ss}$, with $\bar R = I + (R - I)$ whose second term has
    rows of sum one. With weights, all layers are steps of one chain on the tokens of
    both streams instead, as in `relevance`.

    Args:
        captured: Self- and cross-attention of all layers, in order of execution.
        streams: Names of two streams and their numbers of tokens, which differ: they
            tell whose attention a layer is.
        gradient: As of `relevance`.
        weights: As of `relevance`; one tensor for each layer of either kind, over the
            tokens that look.
        normalize: As of `relevance`.
        simultaneous: Whether two layers in a row that look both ways, as of LXMERT,
            look at each other as they were before both.

    Returns:
        `CrossRelevance`.

    Raises:
        ArgumentError: As of `relevance`; or not two streams of different lengths.
        ShapeError: A layer is of neither stream, or weights do not fit.
        CaptureError: The score depends on none of the layers.

    Sources:
        Chefer, Gur and Wolf, arXiv 2103.15679, rules 6 to 11; see `relevance`.
    """
    parts = _parts(streams)
    records = _of_one_pass(captured, "self", "cross")
    places = [_place(record, streams) for record in records]
    total = before = _identity(records[0], sum(streams.values()))
    last: tuple[str, ...] = ()
    steps = _steps(records, gradient, weights, normalize)
    for (flow, share), place in zip(steps, places, strict=True):
        paired = simultaneous and last == place[::-1] and place[0] != place[1]
        seen = before if paired else total
        before, last = total, () if paired else place
        rows, columns = (parts[name] for name in place)
        gained = flow @ seen[:, columns]
        if place[0] != place[1] and share is None:
            own, other = (
                _spread(seen[:, rows, rows]),
                _spread(seen[:, columns, columns]),
            )
            gained[..., columns] = own.mT @ flow @ other
        total = total.clone()
        total[:, rows] = _moved(total[:, rows], gained, share)
    return CrossRelevance(matrix=total, streams=dict(streams))


def _layers(captured: Captured) -> Sequence[AbstractRecord]:
    """The layers of one sequence."""
    records = _of_one_pass(captured, "self", "joint")
    lengths = {record.shape[-2:] for record in records}
    if len(lengths) > 1 or len(set(*lengths)) > 1:
        message = (
            f"layers must be over the same tokens, but have queries and keys "
            f"{sorted(lengths)}; choose one stack by captured.matching(name=...), or "
            f"take cross_relevance for two streams"
        )
        raise ShapeError(message)
    return records


def _of_one_pass(captured: Captured, *kinds: str) -> Sequence[AbstractRecord]:
    """Records of some kinds in order; raises unless they are of one pass."""
    given = (
        [record for record in captured.records if record.site.kind in kinds]
        if isinstance(captured, CapturedAttention)
        else list(captured)
    )
    passes = {(r.site.step, r.site.forward, r.site.branch) for r in given}
    if len(passes) != 1 or len({record.shape[0] for record in given}) > 1:
        message = (
            f"relevance is over the layers of one pass, but got {len(given)} records "
            f"of {len(passes)} passes; choose by captured.matching(forwards=...)"
        )
        raise ArgumentError(message)
    return given


def _identity(record: AbstractRecord, size: int) -> Tensor:
    first = record.tensors[0]
    wide = torch.promote_types(first.dtype, torch.float32)
    whole = torch.eye(size, dtype=wide, device=first.device)
    return whole.repeat(record.shape[0], 1, 1)


def _steps(
    records: Sequence[AbstractRecord],
    gradient: Tensor | None,
    weights: Weights,
    normalize: bool,
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """For each layer what flows along attention, and the share that stays."""
    shares = _shares(weights, records)
    slopes: Any = [1.0] * len(records)
    if gradient is not None:
        slopes = attention_gradients(records, gradient)
    for record, slope, share in zip(records, slopes, shares, strict=True):
        flow = (record.probabilities().detach() * slope).clamp_min(0).mean(1)
        if normalize:
            sums = flow.sum(-1, keepdim=True)
            flow = flow / torch.where(sums > 0, sums, 1)
            share = None if share is None else share.masked_fill(sums == 0, 1)  # noqa: PLW2901
        yield flow, share


def _shares(
    weights: Weights, records: Sequence[AbstractRecord]
) -> Sequence[Tensor | None]:
    """The share of each layer, `(pictures, n, 1)`, checked."""
    if weights is None:
        return [None] * len(records)
    given = (
        [torch.tensor(float(weights))] * len(records)
        if isinstance(weights, float | int)
        else list(weights)
    )
    if len(given) != len(records):
        message = (
            f"weights must be one number, or one tensor for each of the "
            f"{len(records)} layers, but there are {len(given)}"
        )
        raise ShapeError(message)
    return [_share(*pair) for pair in zip(given, records, strict=True)]


def _share(weight: Tensor, record: AbstractRecord) -> Tensor:
    pictures, n = record.shape[0], record.shape[2]
    if weight.ndim and tuple(weight.shape) not in ((n,), (pictures, n)):
        message = (
            f"the weights of {record.site} must have shape ({n},) or ({pictures}, "
            f"{n}), but have {tuple(weight.shape)}"
        )
        raise ShapeError(message)
    if not bool(((weight >= 0) & (weight <= 1)).all()):
        raise ArgumentError(f"the weights of {record.site} must lie in [0, 1]")
    return weight.to(_identity(record, 1)).expand(pictures, n)[..., None]


def _moved(before: Tensor, gained: Tensor, share: Tensor | None) -> Tensor:
    """What was there and what came by attention, weighed."""
    if share is None:
        return before + gained
    return share * before + (1 - share) * gained


def _spread(block: Tensor) -> Tensor:
    """I and what is above it, in rows of sum one."""
    one = torch.eye(block.shape[-1]).to(block)
    above = block - one
    sums = above.sum(-1, keepdim=True)
    return one + above / torch.where(sums > 0, sums, 1)


def _parts(streams: Mapping[str, int]) -> dict[str, slice]:
    """Where the tokens of each stream lie among those of both."""
    if len(streams) != 2 or len(set(streams.values())) != 2:
        message = (
            f"streams must name two streams of different numbers of tokens, by which "
            f"their layers are told apart, but are {dict(streams)!r}"
        )
        raise ArgumentError(message)
    (first, n), (second, m) = streams.items()
    return {first: slice(0, n), second: slice(n, n + m)}


def _place(record: AbstractRecord, streams: Mapping[str, int]) -> tuple[str, str]:
    """The stream that looks and the one that is looked at."""
    names = {n_tokens: name for name, n_tokens in streams.items()}
    if not set(record.shape[-2:]) <= set(names):
        message = (
            f"{record.site} has {record.shape[-2]} queries and {record.shape[-1]} "
            f"keys, which is neither of the streams {dict(streams)!r}"
        )
        raise ShapeError(message)
    return names[record.shape[-2]], names[record.shape[-1]]
