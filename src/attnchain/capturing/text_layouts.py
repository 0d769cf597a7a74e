"""Layouts of text: a sequence, wherever a model is given numbers of text tokens."""

from collections.abc import Callable, Sequence

from attnchain.capturing.calls import RunningModule
from attnchain.capturing.grid import TokenGrid
from attnchain.capturing.sites import Kind
from attnchain.capturing.token_layout import Layout

Rule = Callable[[RunningModule, Kind, int, int], Layout | None]
NO_TEXT = (
    *("pixel_values", "pixel_values_videos", "images", "image_embeds", "video_embeds"),
    *("image_hidden_states", "mm_encoder_outputs", "visual_embeds", "visual_feats"),
    *("input_features", "input_values", "audio_values", "audio_features"),
)
"""Arguments that pictures, sounds and videos are given by."""


def text_in(stack: Sequence[RunningModule]) -> Rule:
    """A rule for any module given numbers of text tokens, and nothing but text."""

    def rule(
        call: RunningModule, kind: Kind, n_queries: int, n_keys: int
    ) -> Layout | None:
        ids = call.tensor("input_ids")
        if ids is None or ids.ndim != 2:
            return None
        if _may_hold_more(call):
            return Layout()
        queries, keys = TokenGrid.of_text(ids.shape[1]), TokenGrid.of_text(n_keys)
        cached = kind != "cross" and n_queries != n_keys
        if (cached or kind == "cross") and not all(map(_is_of_text, stack)):
            return Layout(queries, "these keys may be no text")
        if kind == "cross" and not any(map(_has_encoder, stack)):
            return Layout(queries, "these keys were made outside the model")
        return Layout(queries, keys)

    return rule


def sequences(_: RunningModule, __: Kind, n_queries: int, n_keys: int) -> Layout:
    """Text only."""
    return Layout(TokenGrid.of_text(n_queries), TokenGrid.of_text(n_keys))


def _may_hold_more(call: RunningModule) -> bool:
    """Tells whether something beside text was given that may be in the sequence."""
    if any(call.argument(name) is not None for name in NO_TEXT):
        return True
    numbers = any(tensor.ndim > 2 for tensor in call.tensors())
    return "text" not in _modalities(call) or (numbers and not _is_of_text(call))


def _is_of_text(call: RunningModule) -> bool:
    """Tells whether a model, by its own word in transformers, takes text alone."""
    return set(_modalities(call)) == {"text"}


def _modalities(call: RunningModule) -> tuple[str, ...]:
    told = getattr(call.module, "input_modalities", "text")
    return (told,) if isinstance(told, str) else tuple(told)


def _has_encoder(call: RunningModule) -> bool:
    """Tells whether a model is encoder and decoder in one, by its own word."""
    config = getattr(call.module, "config", None)
    return bool(getattr(config, "is_encoder_decoder", False))
