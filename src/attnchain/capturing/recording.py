"""What is kept while the model runs: chosen calls only, within a budget."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from attnchain.capturing.backward import Trace
from attnchain.capturing.calls import AttentionCall
from attnchain.capturing.dense_records import DenseRecord
from attnchain.capturing.records import AbstractRecord, AttentionRecord
from attnchain.capturing.sites import AttentionSite, Choice, Counts
from attnchain.capturing.token_layout import Layout
from attnchain.errors import CaptureBudgetError

Keep = Literal["qk", "dense", "mean"]


class Recording:
    """The records of one capture and how many layers, steps and passes were seen.

    A layer, step or pass counted from the end is not known to be chosen before the
    model has run. Until then the last few are kept and the rest is let go on the way.
    """

    def __init__(self, choice: Choice, copier: "Copier", max_bytes: float) -> None:
        self.counts = Counts()
        self.records: list[AbstractRecord] = []
        self._choice = choice
        self._copier = copier
        self._max_bytes = max_bytes
        self._held = 0

    def wants(self, site: AttentionSite, layout: Layout) -> bool:
        """Tells whether a site is chosen, or may yet turn out to be.

        Raises:
            GridError: A resolution was asked for, and the token grid is not known.
        """
        return self._choice.fits(
            site, self.counts, final=False
        ) and layout.fits_resolution(site, self._choice.resolution)

    def keep(
        self,
        site: AttentionSite,
        seen: AttentionCall | Tensor,
        layout: Layout,
        tokens: Tensor | None = None,
        trace: Trace | None = None,
    ) -> None:
        """Copies a call, or a matrix that was computed by hand, if it is chosen.

        Args:
            site: Its place.
            seen: The call, or the matrix.
            layout: Its token grids.
            tokens: Which tokens of the matrix the model was told are no padding.
            trace: Its place in the graph of the model.

        Raises:
            CaptureBudgetError: It does not fit into the budget.
            GridError: A resolution was asked for, and the token grid is not known.
        """
        if not self.wants(site, layout):
            return
        if self._choice.counts_back:
            self._drop_unchosen(final=False)
        nbytes = self._copier.nbytes(seen)
        if self._held + nbytes > self._max_bytes:
            message = (
                f"keeping {site} takes {nbytes:,} bytes; with the {self._held:,} bytes "
                f"of {len(self.records)} records held that is more than "
                f"max_bytes={self._max_bytes:,}. Choose fewer layers or steps or one "
                f"resolution, or raise max_bytes, perhaps with device='cpu'"
            )
            raise CaptureBudgetError(message)
        self._held += nbytes
        record = self._copier.record(site, seen, layout, tokens)
        self.records.append(replace(record, trace=trace))

    def close(self) -> None:
        """Lets go of layers and steps that turned out not to be chosen."""
        self._drop_unchosen(final=True)

    def _drop_unchosen(self, *, final: bool) -> None:
        kept = [
            record
            for record in self.records
            if self._choice.fits(record.site, self.counts, final=final)
        ]
        if len(kept) < len(self.records):
            self.records[:] = kept
            self._held = held_bytes(kept)


@dataclass
class Copier:
    """Turns calls into records that share no memory with the model."""

    keep: Keep
    device: torch.device | str | None
    last_mask: tuple[Tensor, int | None, Tensor] | None = None

    def nbytes(self, seen: AttentionCall | Tensor) -> int:
        """Returns the bytes that a record of the call will add to those held."""
        if isinstance(seen, Tensor):
            heads = seen.shape[1] if self.keep == "mean" else 1
            width = torch.promote_types(seen.dtype, torch.float32).itemsize
            return seen.numel() // heads * width
        if self.keep == "qk":
            masks = () if seen.mask is None else (seen.mask,)
            new = [mask for mask in masks if self._copied(mask) is None]
            return sum(tensor.nbytes for tensor in (seen.q, seen.k, *new))
        pictures, heads, n_queries, _ = seen.q.shape
        width = torch.promote_types(seen.q.dtype, torch.float32).itemsize
        matrices = pictures * (heads if self.keep == "dense" else 1)
        return matrices * n_queries * seen.k.shape[2] * width

    def record(
        self,
        site: AttentionSite,
        seen: AttentionCall | Tensor,
        layout: Layout,
        tokens: Tensor | None = None,
    ) -> AbstractRecord:
        """Returns a record of the call in the form asked for."""
        if isinstance(seen, Tensor):
            wide = torch.promote_types(seen.dtype, torch.float32)
            matrix = (
                seen.mean(1, keepdim=True, dtype=wide) if self.keep == "mean" else seen
            )
            tokens = None if tokens is None else self._copy(tokens)
            dense = self._copy(matrix).to(wide)
            return DenseRecord(site, dense, layout=layout, tokens=tokens)
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
        return DenseRecord(
            site,
            torch.as_tensor(self._matrix(whole), device=self.device),
            causal=seen.causal,
            layout=layout,
            tokens=torch.as_tensor(whole.live, device=self.device),
        )

    def _matrix(self, whole: AttentionRecord) -> Tensor:
        """The matrices of all heads, or their mean."""
        if self.keep == "dense":
            return whole.probabilities()
        heads = range(whole.shape[1])
        total = sum(
            (whole.probabilities([head]) for head in heads[1:]),
            start=whole.probabilities([0]),
        )
        return total / len(heads)

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


def held_bytes(records: list[AbstractRecord]) -> int:
    """Bytes held by some records; what they share is counted once."""
    tensors = {id(t): t for record in records for t in record.tensors}
    return sum(tensor.nbytes for tensor in tensors.values())
