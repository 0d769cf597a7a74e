"""Queries and keys of many heads in few bytes, every probability within 1e-3."""

import zlib
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.operators import AttentionTransition

COARSEST_STEP = 5e-4
"""Contribution of one component's rounding to a score; keeps TokenRank to 1e-3."""
FINEST_STEP = 1e-6
"""Below it, float32 and 16 bits, not the step, limit accuracy."""
LARGEST_ERROR = 9e-4
"""Largest error of a transition probability allowed to storage."""


@dataclass(frozen=True, eq=False)
class StoredHead:
    """One head as whole numbers: q = q_codes * q_steps, keys likewise.

    Attributes:
        q_codes: One row for each component, int16, `(d, n)`.
        k_codes: Likewise for keys.
        q_steps: Size of one unit in each component, float32, `(d,)`.
        k_steps: Likewise for keys.
        error: Largest error of a transition probability this storage makes.
    """

    q_codes: np.ndarray
    k_codes: np.ndarray
    q_steps: np.ndarray
    k_steps: np.ndarray
    error: float

    def chain(self) -> AttentionTransition:
        """Returns the stored chain, as the page computes it."""
        q = torch.from_numpy(self.q_codes * self.q_steps[:, None]).T
        k = torch.from_numpy(self.k_codes * self.k_steps[:, None]).T
        return AttentionTransition(q, k, scale=1.0)

    @classmethod
    def rounded(cls, q: Tensor, k: Tensor, step: float) -> Self:
        """Rounds balanced queries and keys.

        A unit of component c is chosen so that its rounding moves scores by the same
        typical amount, `step`, in every component and on both sides.
        """
        q_codes, q_steps = _codes(q, step / _typical(k))
        k_codes, k_steps = _codes(k, step / _typical(q))
        return cls(q_codes, k_codes, q_steps, k_steps, 0.0)


def store_heads(layer: AttentionTransition) -> list[StoredHead]:
    r"""Rounds the queries and keys of every head, as coarsely as the errors allow.

    Two changes that leave every softmax as it is come first: the mean key is taken
    off all keys (it shifts a row's scores alike), and queries and keys are rotated to
    the singular vectors of $Q K^\top$, each side scaled by the root of the singular
    value. The scores then gather in few components, and small components need few
    bits or none.

    Args:
        layer: A batch `(heads,)` of chains without a mask.

    Returns:
        One `StoredHead` for each head, its `error` measured on all probabilities.

    Cost:
        Two or three dense softmax matrices for each head, in float64.
    """
    scale = layer.q.shape[-1] ** -0.5 if layer.scale is None else layer.scale
    return [
        _store(scale * q.double(), k.double())
        for q, k in zip(layer.q, layer.k, strict=True)
    ]


def _store(q: Tensor, k: Tensor) -> StoredHead:
    exact = (q @ k.T).softmax(-1)
    balanced_q, balanced_k = _balanced(q, k - k.mean(0))
    step = COARSEST_STEP
    while True:
        stored = StoredHead.rounded(balanced_q, balanced_k, step)
        error = float((stored.chain().to_dense() - exact).abs().max())
        if error <= LARGEST_ERROR or step < FINEST_STEP:
            return replace(stored, error=error)
        step *= 0.9 * LARGEST_ERROR / error


def _balanced(
    q: Float[Tensor, "n d"], k: Float[Tensor, "n d"]
) -> tuple[Tensor, Tensor]:
    """Queries and keys with the same products, in the singular vectors of Q Kᵀ."""
    q_basis, q_factor = torch.linalg.qr(q)
    k_basis, k_factor = torch.linalg.qr(k)
    left, values, right = torch.linalg.svd(q_factor @ k_factor.T)
    root = values.sqrt()
    return q_basis @ left * root, k_basis @ right.T * root


def _typical(vectors: Tensor) -> Tensor:
    """Root mean square of each component, never zero."""
    return vectors.square().mean(0).sqrt().clamp_min(1e-12)


def _codes(vectors: Tensor, steps: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Whole multiples of the steps, wider where 16 bits would not do."""
    steps = torch.maximum(steps, vectors.abs().amax(0) / 32767).float()
    codes = (vectors / steps.double()).round().clamp(-32767, 32767)
    return codes.T.to(torch.int16).numpy(), steps.numpy()


def pack_heads(heads: list[StoredHead]) -> bytes:
    """Packs the heads of one layer as deflated bytes, little-endian.

    First the float32 steps, for each head those of the queries, then of the keys; then
    one byte for each component of each side: the bytes of one code, 0 where all codes
    are zero. Then for each head: the low bytes of its two-byte components, their high
    bytes, and its one-byte components; each in order of components, queries before
    keys.
    """
    steps = b"".join(
        side.astype("<f4").tobytes()
        for head in heads
        for side in (head.q_steps, head.k_steps)
    )
    widths, planes = b"", b""
    for head in heads:
        head_widths, head_planes = _planes(head)
        widths, planes = widths + head_widths, planes + head_planes
    # Huffman codes only, in short blocks: nothing repeats, and the planes differ.
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 6, zlib.Z_HUFFMAN_ONLY)
    return deflate.compress(steps + widths + planes) + deflate.flush()


def _planes(head: StoredHead) -> tuple[bytes, bytes]:
    widths = np.stack([_widths(head.q_codes), _widths(head.k_codes)])
    low, high, single = [], [], []
    for component in range(head.q_codes.shape[0]):
        for side, codes in enumerate((head.q_codes, head.k_codes)):
            row, width = codes[component], widths[side, component]
            if width == 2:
                low.append((row & 255).astype(np.uint8).tobytes())
                high.append((row >> 8).astype(np.int8).tobytes())
            elif width == 1:
                single.append(row.astype(np.int8).tobytes())
    return widths.tobytes(), b"".join(low + high + single)


def _widths(codes: np.ndarray) -> np.ndarray:
    largest = np.abs(codes.astype(np.int32)).max(1)
    return np.select([largest == 0, largest <= 127], [0, 1], 2).astype(np.uint8)
