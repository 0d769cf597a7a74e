"""What is running: modules with their arguments, and one call of fused attention."""

# pyright: reportUnknownMemberType=false

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import count
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from attnchain.errors import GridError, UnsupportedModelError

HIDDEN = -9_000
"""Masks add the smallest number there is, or -10,000; biases of position add more."""
Function = Callable[..., Any]
Named = dict[str, Any]

SECOND_SEQUENCE = ("encoder_hidden_states", "key_value_states")
FLOATING = frozenset({torch.float32, torch.float16, torch.bfloat16, torch.float64})
PARAMETERS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
# torch.nn.attention.bias.CausalBias; importing the class takes seconds.
CAUSAL_BIAS = "CausalBias"

_SERIAL = count()


@dataclass(frozen=True, eq=False)
class RunningModule:
    """One run of a module, with the arguments its forward was given.

    Attributes:
        name: Its name in the model.
        module: The module.
        args: Positional arguments.
        kwargs: Named by keyword.
        serial: Tells runs apart.
    """

    name: str
    module: Any
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    serial: int = field(default_factory=lambda: next(_SERIAL))

    @property
    def families(self) -> tuple[str, ...]:
        """Package and class of the module and its bases: `transformers.ViTModel`."""
        return _families(type(cast("object", self.module)))

    def argument(self, name: str) -> Any:
        """Returns the named argument of forward, however it was given, else None."""
        if name in self.kwargs:
            return self.kwargs[name]
        names = _parameters(type(cast("object", self.module)))
        position = names.index(name) if name in names else len(self.args)
        return self.args[position] if position < len(self.args) else None

    def tensor(self, name: str) -> Tensor | None:
        """Returns the named argument when it is a tensor, else None."""
        value = self.argument(name)
        return value if isinstance(value, Tensor) else None

    def needed(self, name: str) -> Tensor:
        """Returns the named argument as a tensor.

        Raises:
            GridError: The model was run without it.
        """
        value = self.argument(name)
        if value is None:
            raise GridError(f"the model was run without a tensor {name!r}")
        return torch.as_tensor(value)

    def tensors(self) -> list[Tensor]:
        """All numbers it was given."""
        return floating((*self.args, *self.kwargs.values()))

    def gives_another_sequence(self) -> bool:
        """Tells whether an argument is named as the keys' own sequence."""
        return any(self.tensor(name) is not None for name in SECOND_SEQUENCE)

    def heads(self) -> int | None:
        """Number of heads, where the module tells."""
        for name in ("num_heads", "num_attention_heads", "n_heads", "n_head", "heads"):
            number = getattr(self.module, name, None)
            if isinstance(number, int):
                return number
        return None


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """Named of a call of fused attention, not copied.

    Attributes:
        q: Queries `(pictures, heads, tokens, width)`.
        k: Keys, with fewer heads where several queries share one.
        mask: As torch takes it, with four axes.
        scale: Factor of the scores.
        causal: Query i sees keys 0..i only.
    """

    q: Tensor
    k: Tensor
    mask: Tensor | None
    scale: float
    causal: bool

    @classmethod
    def of(
        cls, args: tuple[Any, ...], kwargs: Mapping[str, Any], heads: int | None = None
    ) -> "AttentionCall":
        """Reads the arguments of `scaled_dot_product_attention`.

        Dropout is ignored: the chain is that of the undropped probabilities.

        Args:
            args: Positional arguments.
            kwargs: Named by keyword.
            heads: Number of heads, where it is known: of several axes before the
                tokens it tells which one runs over heads.

        Raises:
            UnsupportedModelError: The tensors are nested.
        """
        given = dict(zip(PARAMETERS, args, strict=False)) | dict(kwargs)
        q, k = given["query"].detach(), given["key"].detach()
        if q.is_nested or k.is_nested:
            message = (
                "attention over nested tensors cannot be captured; give the model a "
                "padded batch with a mask"
            )
            raise UnsupportedModelError(message)
        q, k = _aligned(q, k)
        scale, mask = given.get("scale"), given.get("attn_mask")
        if isinstance(mask, Tensor) and q.ndim > 4:
            mask = mask[(None,) * (q.ndim - mask.ndim)]
            mask = heads_last(mask.expand(*q.shape[:-2], *mask.shape[-2:]), heads)
        q, k = (heads_last(x, heads) for x in (q, k))
        causal = bool(given.get("is_causal", False))
        if type(mask).__name__ == CAUSAL_BIAS:
            mask = _as_boolean(mask, q.device)
            causal = mask is None
        return cls(
            q=_four_axes(q),
            k=_four_axes(k),
            mask=None if mask is None else _mask_axes(mask.detach(), q),
            scale=q.shape[-1] ** -0.5 if scale is None else float(scale),
            causal=causal,
        )

    @classmethod
    def of_product(cls, args: tuple[Any, ...], heads: int) -> "AttentionCall":
        """Reads the product of scaled queries and keys in multi-head attention.

        Args:
            args: Those of `bmm` (queries, transposed keys), or of `baddbmm`, which
                has the additive mask before them.
            heads: Number of heads; the first axis runs over pictures and heads.
        """
        *masks, q, transposed = (tensor.detach() for tensor in args)
        split = (-1, heads)
        mask = masks[0].expand(q.shape[0], -1, -1) if masks else None
        return cls(
            q=q.unflatten(0, split),
            k=transposed.mT.unflatten(0, split),
            mask=None if mask is None else mask.unflatten(0, split),
            scale=1.0,
            causal=False,
        )

    def unpacked(self) -> "AttentionCall":
        """Returns the call of one query per head whose heads were given as queries.

        `(B, H, 1, d)` with grouped keys may be computed as `(B, key heads, H / key
        heads, d)`; a mask with one row for all heads is left as it is.
        """
        mask = self.mask
        if mask is not None and max(mask.shape[1:3]) > 1:
            mask = mask.expand(-1, *self.q.shape[1:3], -1).flatten(1, 2)[:, :, None]
        return replace(self, q=self.q.flatten(1, 2)[:, :, None], mask=mask)

    def with_heads(self, heads: int) -> "AttentionCall":
        """Returns the call with its first axis, over pictures and heads, split."""
        q, k = (
            cast("Tensor", x.flatten(0, 1).unflatten(0, (-1, heads)))
            for x in (self.q, self.k)
        )
        mask = self.mask
        if mask is not None and mask.shape[0] > 1:
            mask = cast("Tensor", mask.flatten(0, 1).unflatten(0, (-1, heads)))
        return replace(self, q=q, k=k, mask=mask)

    def part(self, pictures: slice) -> "AttentionCall":
        """Returns the call as if made for some pictures of the batch."""
        mask = self.mask
        if mask is not None and mask.shape[0] > 1:
            mask = mask[pictures]
        return replace(self, q=self.q[pictures], k=self.k[pictures], mask=mask)

    @property
    def lengths(self) -> tuple[int, int]:
        """Numbers of queries and keys."""
        return self.q.shape[2], self.k.shape[2]


def told_tokens(
    stack: Sequence[RunningModule], pictures: int, lengths: tuple[int, int]
) -> Tensor | None:
    """Which keys are no padding, by the `attention_mask` that a module was given.

    Outside a decoder that looks at another sequence, the mask may be of that sequence.

    Args:
        stack: The running modules, outermost first.
        pictures: Size of the batch.
        lengths: Queries and keys; more keys than the mask are empty places of a cache.

    Returns:
        A boolean mask `(pictures, keys)`, or None where none was given.
    """
    decodes = False
    for running in reversed(stack):
        looks = running.gives_another_sequence()
        if decodes and not looks:
            return None
        decodes = decodes or looks
        mask = running.tensor("attention_mask")
        if mask is None or mask.ndim not in (2, 4) or len(mask) not in (1, pictures):
            continue
        live = _is_seen(mask) if mask.ndim == 2 else _is_seen(mask).any(dim=(1, 2))
        empty = lengths[1] - live.shape[1]
        if empty == 0 or (empty > 0 and live.shape[1] == lengths[0]):
            return functional.pad(live, (0, empty)).expand(pictures, -1)
    return None


def _is_seen(mask: Tensor) -> Tensor:
    """What a mask shows: it holds truth values, or is added to scores."""
    if not mask.is_floating_point() or bool((mask > 0).any()):
        return mask != 0
    return mask > HIDDEN


def is_split_in_heads(running: RunningModule, size: int, heads: int) -> bool:
    """Tells whether an axis runs over pictures and heads, or over pictures alone.

    Args:
        running: The module that attends; what it was given tells how many pictures.
        size: Length of the axis.
        heads: How many heads there are.
    """
    inputs = [x for x in running.tensors() if x.ndim == 3]
    pictures = {n for x in inputs for n in x.shape[:2]}
    if size in pictures and size not in {n * heads for n in pictures}:
        return False
    return size % heads == 0


def heads_last(tensor: Tensor, heads: int | None) -> Tensor:
    """Moves the axis of heads beside the tokens, from `(B, heads, windows, n, d)`."""
    second = tensor.ndim > 4 and tensor.shape[1] == heads != tensor.shape[-3]
    return tensor.movedim(1, -3) if second else tensor


def floating(values: Iterable[Any]) -> list[Tensor]:
    """The tensors of numbers among some arguments, and in tuples or lists of them."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            if value.dtype in FLOATING and value.ndim > 1:
                found.append(value)
        elif isinstance(value, tuple | list):
            found += floating(cast("Iterable[Any]", value))
    return found


@lru_cache(maxsize=256)
def _parameters(kind: type[nn.Module]) -> tuple[str, ...]:
    """Names of the parameters of a module's forward, without self."""
    return tuple(inspect.signature(kind.forward).parameters)[1:]


@lru_cache(maxsize=256)
def _families(kind: type[nn.Module]) -> tuple[str, ...]:
    """Package and name of a class and its bases."""
    return tuple(
        f"{base.__module__.partition('.')[0]}.{base.__name__}" for base in kind.__mro__
    )


def _aligned(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Broadcasts the batch axes of queries and keys, and one query head to many."""
    n_axes = max(q.ndim, k.ndim)
    q, k = (tensor[(None,) * (n_axes - tensor.ndim)] for tensor in (q, k))
    heads = -3 if n_axes > 3 else -2
    shapes = q.shape[:heads], k.shape[:heads]
    batch = cast("torch.Size", torch.broadcast_shapes(*shapes))
    if n_axes > 3 and q.shape[-3] == 1:
        q = q.expand(*q.shape[:-3], k.shape[-3], -1, -1)
    q, k = (tensor.expand(*batch, *tensor.shape[heads:]) for tensor in (q, k))
    return q, k


def _as_boolean(bias: Any, device: torch.device) -> Tensor | None:
    """The mask that a causal bias, a tensor without values, stands for.

    None where it is what `is_causal` says.
    """
    n, m = bias.seq_len_q, bias.seq_len_kv
    if bias.variant.name == "UPPER_LEFT" or n == m:
        return None
    return torch.ones(n, m, dtype=torch.bool, device=device).tril(m - n)


def _four_axes(tensor: Tensor) -> Tensor:
    if tensor.ndim == 2:
        return tensor[None, None]
    if tensor.ndim == 3:
        return tensor[:, None]
    return tensor.flatten(0, -4)


def _mask_axes(mask: Tensor, q: Tensor) -> Tensor:
    """Four axes, those along which the mask is merely expanded cut to length one."""
    mask = mask[(None,) * (q.ndim - mask.ndim)]
    if q.ndim > 4:
        mask = mask.expand(*q.shape[:-3], *mask.shape[-3:])
    mask = _four_axes(mask)
    for axis in range(4):
        if mask.stride(axis) == 0:
            mask = mask.narrow(axis, 0, 1)
    return mask
