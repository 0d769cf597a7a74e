"""Copies what was seen into records, in the form and on the device asked for."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from attnchain.capturing.layout import Layout
from attnchain.capturing.queries import AttentionRecord
from attnchain.capturing.record import AbstractRecord, DenseRecord
from attnchain.capturing.seen import Seen
from attnchain.capturing.site import AttentionSite

Keep = Literal["qk", "dense", "mean"]


@dataclass
class Copier:
    """Turns calls into records that share no memory with the model."""

    keep: Keep
    device: torch.device | str | None
    last_mask: tuple[Tensor, int | None, Tensor] | None = None

    def nbytes(self, seen: Seen) -> int:
        """Returns the bytes that a record of the call will add to those held."""
        if self.keep == "qk":
            masks = () if seen.mask is None else (seen.mask,)
            new = [mask for mask in masks if self._copied(mask) is None]
            return sum(tensor.nbytes for tensor in (seen.q, seen.k, *new))
        pictures, heads, n_queries, _ = seen.q.shape
        width = torch.promote_types(seen.q.dtype, torch.float32).itemsize
        matrices = pictures * (heads if self.keep == "dense" else 1)
        return matrices * n_queries * seen.k.shape[2] * width

    def record(self, site: AttentionSite, seen: Seen, layout: Layout) -> AbstractRecord:
        """Returns a record of the call in the form asked for."""
        if self.keep == "qk":
            return AttentionRecord(
                site,
                self._copy(seen.q),
                self._copy(seen.k),
                scale=seen.scale,
                mask=self._copy_mask(seen.mask),
                causal=seen.causal,
                layout=layout,
            )
        whole = AttentionRecord(
            site, seen.q, seen.k, scale=seen.scale, mask=seen.mask, causal=seen.causal
        )
        if self.keep == "dense":
            matrix = whole.probabilities()
        else:
            heads = range(seen.q.shape[1])
            matrix = sum(whole.probabilities([head]) for head in heads) / len(heads)
        matrix = torch.as_tensor(matrix, device=self.device)
        return DenseRecord(site, matrix, causal=seen.causal, layout=layout)

    def _copy(self, tensor: Tensor) -> Tensor:
        device = tensor.device if self.device is None else self.device
        return tensor.to(device, copy=True, memory_format=torch.contiguous_format)

    def _copy_mask(self, mask: Tensor | None) -> Tensor | None:
        """Copies a mask once for all layers it is given to."""
        if mask is None:
            return None
        copy = self._copied(mask)
        if copy is None:
            copy = self._copy(mask)
            version = None if mask.is_inference() else mask._version
            self.last_mask = (mask, version, copy)
        return copy

    def _copied(self, mask: Tensor) -> Tensor | None:
        """The copy of the last mask, if this is the same one and unchanged.

        Tensors of inference mode do not tell whether they were changed.
        """
        if self.last_mask is None or mask.is_inference():
            return None
        original, version, copy = self.last_mask
        same = (
            mask.data_ptr() == original.data_ptr()
            and mask.shape == original.shape
            and mask.stride() == original.stride()
            and mask._version == version
        )
        return copy if same else None
