"""Queries and keys of many heads in few bytes, every bounce within 1e-3 in L1."""

import zlib
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.operators import AttentionTransition

FIRST_STEP = 4e-4
"""Contribution of one component's rounding to a score that is tried first."""
FINEST_STEP = 1e-6
"""Below it, float32 and the widest code, not the step, limit accuracy."""
WIDEST_CODE = 2**21 - 1
"""Largest code: float32 has little more."""
LARGEST_ERROR = 9.3e-4
"""Largest L1 error found of bounces; the states not followed stay below 1e-3."""
BOUNCES = 20
"""Most bounces the page shows."""
FOLLOWED = 16
"""Most states whose walks are followed beyond one bounce to measure the error."""
HIGH_BITS = 7
"""Bits of a code that are stored apart from its low bits."""


@dataclass(frozen=True, eq=False)
class StoredHead:
    """One head as whole numbers: q = q_codes * q_steps, keys likewise.

    Attributes:
        q_codes: One row for each component, int32, `(d, n)`.
        k_codes: Likewise for keys.
        q_steps: Size of one unit in each component, float32, `(d,)`.
        k_steps: Likewise for keys.
        error: Largest L1 error found of bounces from a state, incoming or outgoing:
            of one bounce from every state, of more from some.
        causal: Whether a state sees none after it.
    """

    q_codes: np.ndarray
    k_codes: np.ndarray
    q_steps: np.ndarray
    k_steps: np.ndarray
    error: float
    causal: bool = False

    def chain(self) -> AttentionTransition:
        """Returns the stored chain, as the page computes it."""
        q, k = (
            torch.from_numpy((codes * steps[:, None]).astype(np.float32)).T
            for codes, steps in (
                (self.q_codes, self.q_steps),
                (self.k_codes, self.k_steps),
            )
        )
        return AttentionTransition(q, k, scale=1.0, causal=self.causal)

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
    bits or none. The error is nearly proportional to the unit of rounding, so the
    second try lands just below the largest error allowed.

    Args:
        layer: A batch `(heads,)` of chains without a mask.

    Returns:
        One `StoredHead` for each head, its `error` measured on all states.

    Cost:
        Three or four dense softmax matrices for each head.
    """
    scale = layer.q.shape[-1] ** -0.5 if layer.scale is None else layer.scale
    return [
        _store(scale * q.double(), k.double(), causal=layer.causal)
        for q, k in zip(layer.q, layer.k, strict=True)
    ]


def _store(q: Tensor, k: Tensor, *, causal: bool) -> StoredHead:
    exact = AttentionTransition(q, k, scale=1.0, causal=causal).to_dense().float()
    balanced_q, balanced_k = _balanced(q, k - k.mean(0))
    step = FIRST_STEP
    while True:
        found = StoredHead.rounded(balanced_q, balanced_k, step)
        stored = replace(found, causal=causal)
        error = _largest_error(stored.chain().to_dense(), exact)
        if error <= LARGEST_ERROR or step < FINEST_STEP:
            return replace(stored, error=error)
        step *= 0.97 * LARGEST_ERROR / error


def _largest_error(found: Tensor, exact: Tensor) -> float:
    """Largest L1 distance of bounces from the same state, of both directions."""
    outgoing = [(chain / chain.sum(0)).T.contiguous() for chain in (found, exact)]
    return max(_bounce_error(found, exact), _bounce_error(*outgoing))


def _bounce_error(found: Tensor, exact: Tensor) -> float:
    """Largest L1 distance after one bounce from any state, and after more from some.

    Slow chains add up the errors of their bounces. So walkers from the states where
    errors add up most, by how long they stay, go on while a distance that matters
    grows.
    """
    distances = (found - exact).abs().sum(1)
    largest = float(distances.max())
    added = distances / (1 - exact.diagonal()).clamp_min(1e-6)
    starts = added.topk(min(FOLLOWED, len(added))).indices
    distances, walkers = distances[starts], (found[starts], exact[starts])
    for _ in range(BOUNCES - 1):
        before, walkers = distances, (walkers[0] @ found, walkers[1] @ exact)
        distances = (walkers[0] - walkers[1]).abs().sum(1)
        largest = max(largest, float(distances.max()))
        growing = distances[distances > before]
        if largest > LARGEST_ERROR or not bool((growing > LARGEST_ERROR / 2).any()):
            break
    return largest


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
    """Whole multiples of the steps, wider where the codes would not do."""
    steps = torch.maximum(steps, vectors.abs().amax(0) / WIDEST_CODE).float()
    codes = (vectors / steps.double()).round().clamp(-WIDEST_CODE, WIDEST_CODE)
    return codes.T.to(torch.int32).numpy(), steps.numpy()


def pack_heads(heads: list[StoredHead], columns: int) -> bytes:
    """Packs the heads of one layer as deflated bytes, little-endian.

    First the float32 steps, for each head those of the queries, then of the keys; then
    one byte for each component of each side: 0 where all its codes are zero, else one
    more than the number b of low bits split off, so that the rest fits HIGH_BITS. Then
    for each head the low parts of its components, eight bits a plane and the lowest
    first, and after them the high parts; both in order of components, queries before
    keys. What is split are the codes less a quarter of their two neighbours' sum.

    Args:
        heads: What `store_heads` returned.
        columns: Patches in a row of the picture.
    """
    steps = b"".join(
        side.astype("<f4").tobytes()
        for head in heads
        for side in (head.q_steps, head.k_steps)
    )
    splits, planes = b"", b""
    for head in heads:
        head_splits, head_planes = _planes(
            _differences(head.q_codes, columns), _differences(head.k_codes, columns)
        )
        splits, planes = splits + head_splits, planes + head_planes
    # Huffman codes only, in short blocks: nothing repeats, and the planes differ.
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 6, zlib.Z_HUFFMAN_ONLY)
    return deflate.compress(steps + splits + planes) + deflate.flush()


def _differences(codes: np.ndarray, columns: int) -> np.ndarray:
    """Codes less a quarter of the sum of the codes before and above, rounded down."""
    near = np.zeros_like(codes)
    near[:, 1:] += codes[:, :-1]
    near[:, columns:] += codes[:, :-columns]
    return codes - (near >> 2)


def _planes(q_codes: np.ndarray, k_codes: np.ndarray) -> tuple[bytes, bytes]:
    splits = np.stack([_splits(q_codes), _splits(k_codes)])
    low, high = [], []
    for component in range(len(q_codes)):
        for side, codes in enumerate((q_codes, k_codes)):
            row, bits = codes[component], int(splits[side, component]) - 1
            for shift in range(0, bits, 8):
                part = row & ((1 << bits) - 1)
                low.append((part >> shift & 255).astype(np.uint8).tobytes())
            if bits >= 0:
                high.append((row >> bits).astype(np.int8).tobytes())
    return splits.tobytes(), b"".join(low + high)


def _splits(codes: np.ndarray) -> np.ndarray:
    """The split byte of each component, see `pack_heads`."""
    largest = np.maximum(codes.max(1), -1 - codes.min(1))
    length = np.frexp(largest.astype(np.float64))[1] + 1
    splits = 1 + np.maximum(0, length - HIGH_BITS)
    return np.where(codes.any(1), splits, 0).astype(np.uint8)


def text_of(content: bytes) -> str:
    """Writes bytes as text, four of them in five characters (Base64 needs 5.33).

    The digits to base 85 are the characters from # on; ~ stands for <, so that no
    text ends the script element it is in. Zeros fill the last four bytes; as many
    characters are left out at the end.
    """
    missing = -len(content) % 4
    values = np.frombuffer(content + bytes(missing), ">u4")[:, None]
    digits = values // np.array([85**4, 85**3, 85**2, 85, 1]) % 85
    characters = (digits + ord("#")).astype(np.uint8)
    characters[characters == ord("<")] = ord("~")
    text = characters.tobytes().decode("ascii")
    return text[: len(text) - missing]
