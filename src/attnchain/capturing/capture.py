"""The context manager that reads attention from a running model.

A model that can be told to use fused attention is switched to it inside the block:
outputs then agree to rounding, and attention weights it would have returned are
missing. Where a module computes attention by hand, the softmax that weighs its values
is kept as a matrix (`DenseRecord`). Only the thread that opened the block is read:
others may run the model meanwhile.
"""

import warnings
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from numbers import Real
from typing import Any, Unpack

import torch
from torch import nn

from attnchain.capturing.grid import TokenGrid
from attnchain.capturing.interception import Interception
from attnchain.capturing.pipelines import Denoising
from attnchain.capturing.recorder import GivenGrid, Recorder
from attnchain.capturing.recording import Copier, Keep, Recording
from attnchain.capturing.result import CapturedAttention
from attnchain.capturing.sites import Choice, Numbers, Selection, listed
from attnchain.capturing.switches import fused_attention
from attnchain.errors import (
    ArgumentError,
    NothingCapturedError,
    SiteNotFoundError,
    UnreadAttentionWarning,
    UnsupportedModelError,
)

DEFAULT_BUDGET = 8 * 2**30


@contextmanager
def capture(
    model: nn.Module | Any,
    *,
    layers: Numbers = None,
    keep: Keep = "qk",
    max_bytes: int = DEFAULT_BUDGET,
    device: torch.device | str | None = None,
    grid: GivenGrid = None,
    gradients: bool = False,
    **selection: Unpack[Selection],
) -> Generator[CapturedAttention]:
    r"""Reads the attention of a model that runs inside the `with` block.

    Queries and keys of every call of `scaled_dot_product_attention` are copied, after
    rotary embedding and normalisation; no n x n matrix is formed, and outputs do not
    change (to rounding, where it is switched to fused attention). Hooks and switches
    are gone afterwards, whatever happens.

    Args:
        model: Any torch module, or a diffusers pipeline, read at each denoising step.
        layers: Layers to keep, from 0 in each kind; -1 is the last. Default: all.
        keep: "qk" keeps queries and keys, "dense" all matrices, "mean" that of heads.
        max_bytes: Budget for everything kept.
        device: Where to keep it, such as "cpu"; by default where it is computed.
        grid: Layout where it is not known: a `TokenGrid`, or f(module, n_tokens).
        gradients: Whether records keep the model's graph, for `attention_gradients`.
        **selection: `name`, `kind`, `steps`, `forwards`, `resolution`, `branch`.

    Yields:
        `CapturedAttention`, filled while the model runs.

    Raises:
        UnsupportedModelError: Attention is computed where it cannot be read.
        ArgumentError: An option or a choice is not what it must be.
        NothingCapturedError: The block ended, and no attention was seen.
        SiteNotFoundError: Attention was seen, but nothing that was chosen.
        CaptureBudgetError: The next record would exceed the budget.
        GridError: A resolution was chosen, and a token layout is not known.

    Warns:
        UnreadAttentionWarning: Some attention by hand cannot be followed; where.

    Example:
        >>> encoder = nn.TransformerEncoderLayer(8, nhead=2, batch_first=True)
        >>> with capture(encoder.eval()) as attention:
        ...     _ = encoder(torch.zeros(1, 3, 8))
        >>> attention.select(layers=0, heads=0).to_dense()[0, 0]
        tensor([0.3333, 0.3333, 0.3333])
    """
    _check_options(keep, max_bytes, device, grid, gradients)
    denoising = _denoising(model, gradients=gradients)
    network = model if denoising is None else denoising.network
    choice = _chosen(layers, selection, has_steps=denoising is not None)
    recording = Recording(choice, Copier(keep, device), max_bytes)
    recorder = Recorder(network, recording, grid, denoising, gradients=gradients)
    steps = nullcontext() if denoising is None else denoising.following()
    with fused_attention(network), steps, recorder.following(), Interception(recorder):
        yield CapturedAttention(recording)
    recording.close()
    _check_captured(recorder, choice)


def _denoising(model: nn.Module | Any, *, gradients: bool) -> Denoising | None:
    """The steps of a pipeline; none of a module."""
    if isinstance(model, nn.Module):
        return None
    if gradients:
        raise ArgumentError("a pipeline runs without gradients: capture its network")
    return Denoising(model)


def _chosen(layers: Numbers, selection: Selection, *, has_steps: bool) -> Choice:
    """What is kept; raises where steps are chosen of what has none."""
    choice = Choice.of(layers, **selection)
    if choice.steps is not None and not has_steps:
        message = (
            "steps can be chosen for a diffusion pipeline only: capture the pipeline "
            "instead of its network, or choose forwards=..."
        )
        raise ArgumentError(message)
    return choice


def _check_options(
    keep: Any, max_bytes: Any, device: Any, grid: Any, gradients: Any
) -> None:
    """Raises before the model runs where an option is not what it must be."""
    if keep not in ("qk", "dense", "mean"):
        raise ArgumentError(f"keep must be 'qk', 'dense' or 'mean', but is {keep!r}")
    if gradients and keep == "mean":
        raise ArgumentError("gradients are of single heads: keep 'qk' or 'dense'")
    if not isinstance(max_bytes, Real):
        raise ArgumentError(f"max_bytes must be a number, but is {max_bytes!r}")
    if grid is not None and not isinstance(grid, TokenGrid) and not callable(grid):
        message = (
            f"grid must be a TokenGrid(rows=..., columns=...), or a function of a "
            f"module's name and its number of tokens, but is {grid!r}"
        )
        raise ArgumentError(message)
    if device is not None:
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, TypeError) as error:
            message = f"records cannot be kept on device={device!r}: {error}"
            raise ArgumentError(message) from error


def _check_captured(recorder: Recorder, choice: Choice) -> None:
    """Raises when a block ended without what was asked for."""
    counts, records = recorder.recording.counts, recorder.recording.records
    unread = [name for name in recorder.unread if choice.fits_name(name)]
    if unread:
        message = (
            f"attention is computed by hand in {listed(unread)}, in a way that cannot "
            f"be followed from its softmax to the values; it is missing. Use torch's "
            f"fused attention there (scaled_dot_product_attention), or leave these "
            f"modules out with name=..."
        )
        if not records:
            raise UnsupportedModelError(message)
        warnings.warn(message, UnreadAttentionWarning, stacklevel=4)
    if not counts.layers:
        raise NothingCapturedError(_why_nothing(recorder))
    if not records:
        kinds = ", ".join(f"{n} {kind}" for kind, n in counts.n_layers.items())
        message = (
            f"nothing that was captured fits {choice}; the model has {kinds} layers, "
            f"named {listed(recorder.names)}"
        )
        if choice.name is not None:
            message += ". In a name, * stands for any characters: name='*attn*'"
        raise SiteNotFoundError(message)


def _why_nothing(recorder: Recorder) -> str:
    """Tells why no attention was seen, and what to do."""
    if recorder.has_run:
        return (
            "the model ran, but never called scaled_dot_product_attention; if it has "
            "attention, it is computed in a way that cannot be read"
        )
    if recorder.ran_elsewhere:
        return (
            "the model ran in another thread, which cannot be read; open the capture "
            "block in the thread that runs the model"
        )
    return (
        "the model was not run inside the capture block; call the very module that "
        "was given to capture"
    )
