"""One run of a language model on one text."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from attnchain.capturing import TextTokens, capture
from attnchain.checks import check_choice
from attnchain.errors import ArgumentError, UnsupportedModelError
from attnchain.language.text_reading import TextReading
from attnchain.models import LoadedText, of_kind
from attnchain.operators import AttentionTransition

if TYPE_CHECKING:
    from attnchain.capturing import AbstractRecord

SinkPolicy = Literal["drop", "keep"]


def read_text(
    model: LoadedText,
    text: str,
    *,
    layers: Sequence[int] | int | None = None,
    sink: SinkPolicy = "drop",
) -> TextReading:
    """Runs a language model on a text and keeps its attention as chains.

    Args:
        model: What `load` returned for a language model, or
            `LoadedText(name, note, model, tokenizer)` of your own.
        text: A text of at least two words.
        layers: Layers to keep, counted from 0; -1 is the last. All by default.
        sink: "drop" leaves out the tokens that draw attention whatever is said: the
            first one where attention is causal, else the special tokens (softmax
            again over the rest). "keep" keeps them.

    Returns:
        `TextReading`.

    Raises:
        UnsupportedModelError: The model reads something else than text, needs a
            second input, or its attention is no plain softmax over the tokens.
        ArgumentError: The text is too short or too long, or an option unknown.
        SiteNotFoundError: There is no such layer.

    Example:
        >>> import attnchain as ac
        >>> model = ac.load("all-minilm-l6-v2")  # doctest: +SKIP
        >>> print(read_text(model, "A cat sat on the mat.").summary())  # doctest: +SKIP
    """
    _check(model, sink)
    inputs = model.tokens(text)
    records = _records(model, inputs, layers)
    chains = tuple(_plain(record, model) for record in records)
    ids = inputs["input_ids"][0].tolist()
    tokens = _tokens(model.tokenizer, text, ids)
    kept = _kept(tokens, causal=chains[0].causal, drop=sink == "drop")
    if len(kept) < 2:
        message = (
            f"the text {text!r} has {len(kept)} token(s) to walk between; give "
            "at least two, or sink='keep'"
        )
        raise ArgumentError(message)
    return TextReading(
        text=text,
        names=tuple(_name(model.tokenizer, tokens, i, ids[i]) for i in range(len(ids))),
        spans=tokens.spans,
        kept=kept,
        layers=tuple(record.site.layer for record in records),
        whole=chains,
        model_name=model.name,
        model_note=model.note,
    )


def _check(model: LoadedText, sink: str) -> None:
    of_kind(model, LoadedText)
    check_choice(sink, get_args(SinkPolicy), "sink")
    config: Any = model.model.config
    if getattr(config, "is_encoder_decoder", False):
        message = (
            f"{model.name!r} reads one text and writes another; run it yourself inside "
            "attnchain.capture"
        )
        raise UnsupportedModelError(message)


def _records(
    model: LoadedText, inputs: dict[str, Tensor], layers: Sequence[int] | int | None
) -> tuple["AbstractRecord", ...]:
    """Runs the model and keeps the attention of the chosen layers."""
    with torch.no_grad(), capture(model.model, layers=layers) as attention:
        model.model(**inputs)
    return attention.matching()


def _plain(record: "AbstractRecord", model: LoadedText) -> AttentionTransition:
    """The heads of the one text over all its tokens."""
    chain = record.transition()[0]
    if isinstance(chain, AttentionTransition) and chain.mask is None:
        return chain
    message = (
        f"{record.site} of {model.name!r} masks attention beyond causality, or keeps "
        "no queries and keys; use attnchain.capture and ask its chains yourself"
    )
    raise UnsupportedModelError(message)


def _tokens(tokenizer: Any, text: str, ids: list[int]) -> TextTokens:
    """The characters of each token."""
    if getattr(tokenizer, "is_fast", False):
        return TextTokens.of(tokenizer, text)
    return TextTokens.of_ids(tokenizer, ids)


def _name(tokenizer: Any, tokens: TextTokens, place: int, number: int) -> str:
    """What a token is called: its characters, or the tokenizer's name of it."""
    span = tokens.spans[place]
    if span is None:
        return str(tokenizer.convert_ids_to_tokens(number))
    return tokens.text[span[0] : span[1]].strip() or " "


def _kept(tokens: TextTokens, *, causal: bool, drop: bool) -> tuple[int, ...]:
    """Positions of the tokens that are states."""
    if drop and causal:
        return tuple(range(1, len(tokens)))
    spans = enumerate(tokens.spans)
    return tuple(place for place, span in spans if span is not None or not drop)
