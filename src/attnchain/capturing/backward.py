"""Gradients of a score with respect to attention, from what its graph keeps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.errors import ArgumentError, CaptureError, UnsupportedModelError

if TYPE_CHECKING:
    from attnchain.capturing.records import AbstractRecord


@dataclass(eq=False)
class Trace:
    """Where in the graph of a running model one call of attention lies.

    Attributes:
        shape: Pictures, heads, queries.
        values: Values `(pictures, key heads, m, width)` of a fused call, whose output
            is traced; None where the matrix of weights itself is.
        tensor: The traced tensor; a fused call gives it when it has run.
    """

    shape: tuple[int, ...]
    values: Tensor | None = None
    tensor: Tensor | None = None

    @classmethod
    def of_call(cls, q: Tensor, k: Tensor, values: Tensor, where: str) -> "Trace":
        """The trace of a fused call whose output is not computed yet.

        Args:
            q: Its queries, with four axes.
            k: Its keys, with four axes.
            values: Its values, as the model gave them.
            where: Name of the module.

        Raises:
            UnsupportedModelError: The values' axes are not those of the keys.
        """
        if values.ndim > 4 or values[..., 0].numel() != k[..., 0].numel():
            message = (
                f"{where} calls attention with keys {tuple(k.shape)} and values "
                f"{tuple(values.shape)}, of which no gradient can be read; capture "
                f"without gradients=True, or leave the module out with name=..."
            )
            raise UnsupportedModelError(message)
        shaped = values.detach().reshape(*k.shape[:3], values.shape[-1])
        return cls((q.shape[0], q.shape[1], q.shape[2]), shaped)

    def gradient(self, backward: Tensor | None) -> Float[Tensor, "pictures heads n m"]:
        """The gradient with respect to the probabilities.

        Args:
            backward: That with respect to the traced tensor; None where the score does
                not depend on it.
        """
        if backward is None:
            backward = torch.zeros_like(self.tensor)  # pyright: ignore
        wide = backward.to(torch.promote_types(backward.dtype, torch.float32))
        wide = wide.reshape(*self.shape, -1)
        if self.values is None:
            return wide
        values = self.values.to(wide)
        group = wide.shape[1] // values.shape[1]
        return wide @ values.repeat_interleave(group, dim=1).mT


def attention_gradients(
    records: "Sequence[AbstractRecord]", score: Tensor
) -> Iterator[Float[Tensor, "pictures heads n m"]]:
    r"""Gradients of a score with respect to the attention probabilities.

    A fused call gives $O = A V$, so that $\partial s / \partial A = (\partial s /
    \partial O) V^\top$: one backward pass to the outputs of all calls, and no matrix
    of probabilities in the model. It may be asked again, for other scores.

    Args:
        records: Of `capture(model, gradients=True)`.
        score: One number that the model's outputs gave, with its graph.

    Returns:
        One gradient for each record, computed as they are taken, since each is an
        n x m matrix for each head; zero where the score does not depend on the call.

    Raises:
        ArgumentError: The score is not one number with a graph, or the records were
            captured without `gradients=True`.
        CaptureError: The score depends on none of the records.

    Example:
        >>> import torch
        >>> from attnchain import capture
        >>> encoder = torch.nn.TransformerEncoderLayer(8, nhead=2, batch_first=True)
        >>> with capture(encoder.eval(), gradients=True) as attention:
        ...     output = encoder(torch.zeros(1, 3, 8))
        >>> [gradient] = attention_gradients(attention.records, output[0, 0, 0])
        >>> gradient.shape
        torch.Size([1, 2, 3, 3])
    """
    _check(records, score)
    traces = [record.trace for record in records if record.trace is not None]
    tensors = [trace.tensor for trace in traces if trace.tensor is not None]
    attached = [tensor for tensor in tensors if tensor.requires_grad]
    taken = iter(
        torch.autograd.grad(score, attached, retain_graph=True, allow_unused=True)
        if attached
        else ()
    )
    found = [next(taken) if tensor.requires_grad else None for tensor in tensors]
    if all(backward is None for backward in found):
        message = (
            f"the score depends on none of the {len(records)} records, from "
            f"{records[0].site} on: was it computed inside the capture block?"
        )
        raise CaptureError(message)
    pairs = zip(traces, found, strict=True)
    return (trace.gradient(backward) for trace, backward in pairs)


def _check(records: "Sequence[AbstractRecord]", score: Tensor) -> None:
    """Raises unless there are records with a graph, and a score."""
    if (
        not isinstance(cast("object", score), Tensor)
        or score.numel() != 1
        or not score.requires_grad
    ):
        message = (
            f"the score must be one number with a graph behind it, but is {score!r}; "
            f"run the model with gradients enabled, on inputs or weights that require "
            f"them, and take one entry or a sum of its output"
        )
        raise ArgumentError(message)
    without = sum(record.trace is None for record in records)
    if without or not records:
        message = (
            f"{without} of {len(records)} records were captured without their graph; "
            f"use capture(model, gradients=True)"
        )
        raise ArgumentError(message)
