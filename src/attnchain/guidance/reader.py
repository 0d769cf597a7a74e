"""Reads the queries and keys of one block while a denoiser runs."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from attnchain.capturing import (
    AttentionCall,
    TokenGrid,
    capture,
    fused_attention,
)
from attnchain.errors import (
    NothingCapturedError,
    SiteNotFoundError,
    UnsupportedModelError,
)
from attnchain.operators import AttentionTransition
from attnchain.replacing import replaced


@dataclass
class Reading:
    """What one run of the denoiser showed; filled when the run has ended.

    Attributes:
        seen: Arguments of the block's attention call.
        grid: Layout of its tokens.
    """

    seen: AttentionCall | None = None
    grid: TokenGrid | None = None

    def attention(self, pictures: slice) -> AttentionTransition:
        """The block's chains, (pictures, heads), for part of the batch."""
        part = self._given.part(pictures)
        return AttentionTransition(
            part.q, part.k, scale=part.scale, mask=part.mask, causal=part.causal
        )

    @property
    def layout(self) -> TokenGrid:
        """The grid, which `BlockReader.reading` always fills."""
        if self.grid is None:
            raise NothingCapturedError("the denoiser has not run yet")
        return self.grid

    @property
    def _given(self) -> AttentionCall:
        if self.seen is None:
            raise NothingCapturedError("the denoiser has not run yet")
        return self.seen


class _OneCall(TorchFunctionMode):
    """Notes fused attention while one module runs."""

    def __init__(self, note: Callable[[AttentionCall], None]) -> None:
        super().__init__()
        self.note = note

    def __torch_function__(
        self, func: Callable, types: Any, args: Any = (), kwargs: dict | None = None
    ) -> Any:
        if func is functional.scaled_dot_product_attention:
            self.note(AttentionCall.of(args, kwargs or {}))
        return func(*args, **(kwargs or {}))


@dataclass
class BlockReader:
    """Reads one attention module of a denoiser, and nothing else.

    The token layout is found once for each size of latents, by `capture`; later runs
    watch the one module only, so that reading costs next to nothing.

    Args:
        denoiser: The network.
        block: Name of its attention module; the middle one by default.

    Raises:
        SiteNotFoundError: There is no such module, or no self-attention at all.
        UnsupportedModelError: The denoiser was compiled in place.
    """

    denoiser: nn.Module
    block: str | None = None
    _grids: dict[object, TokenGrid] = field(default_factory=dict)

    def __post_init__(self) -> None:
        network = uncompiled(self.denoiser)
        if getattr(network, "_compiled_call_impl", None) is not None:
            message = (
                f"this {type(network).__name__} was compiled in place, so that its "
                f"runs cannot be steered; replace .compile() by "
                f"pipeline.unet = torch.compile(pipeline.unet)"
            )
            raise UnsupportedModelError(message)
        names = self_attention(network)
        if self.block is None:
            self.block = middle_block(network, names)
        elif self.block not in names:
            message = (
                f"no self-attention module is named {self.block!r}; there are "
                f"{', '.join(names[:12]) or 'none'}"
            )
            raise SiteNotFoundError(message)

    @contextmanager
    def reading(self, size: object) -> Iterator[Reading]:
        """Reads the run of the denoiser inside the block.

        Args:
            size: Anything hashable that changes with the size of the latents.

        Yields:
            The reading, complete when the block has ended.

        Raises:
            NothingCapturedError: The module made no call of fused attention.
            UnsupportedModelError: Its attention is computed where it cannot be read.
            GridError: Its token layout is not known.
        """
        reading = Reading()
        module = uncompiled(self.denoiser).get_submodule(str(self.block))
        with ExitStack() as stack:
            found = None
            if size not in self._grids:
                found = stack.enter_context(
                    capture(self.denoiser, name=self.block, max_bytes=2**62)
                )
            stack.enter_context(fused_attention(module))
            noting = _noting(module.forward, reading)
            stack.enter_context(replaced(module, "forward", noting))
            yield reading
            if found is not None and found.records:
                self._grids[size] = found.records[0].grid
        if reading.seen is None:
            message = f"{self.block} ran without a call of fused attention"
            raise NothingCapturedError(message)
        reading.grid = self._grids[size]


def _noting(forward: Callable[..., Any], reading: Reading) -> Callable[..., Any]:
    """A module's forward method under a mode that notes its fused attention.

    No pair of hooks: torch skips the second one when the user interrupts.
    """

    def noting(*args: Any, **kwargs: Any) -> Any:
        with _OneCall(lambda seen: setattr(reading, "seen", seen)):
            return forward(*args, **kwargs)

    return noting


def uncompiled(denoiser: nn.Module) -> nn.Module:
    """The network itself, where torch.compile wrapped it."""
    return getattr(denoiser, "_orig_mod", denoiser)


def self_attention(denoiser: nn.Module) -> list[str]:
    """Names of the self- and joint-attention modules of a diffusers denoiser."""
    return [
        name
        for name, module in denoiser.named_modules()
        if hasattr(module, "to_q")
        and hasattr(module, "to_k")
        and not getattr(module, "is_cross_attention", False)
    ]


def middle_block(denoiser: nn.Module, names: list[str]) -> str:
    """The first attention of a UNet's middle, or the middle one of a transformer.

    Raises:
        SiteNotFoundError: There is no self-attention.
    """
    if not names:
        message = (
            f"{type(denoiser).__name__} has no self-attention, which guidance reads"
        )
        raise SiteNotFoundError(message)
    middle = [name for name in names if name.startswith("mid_block.")]
    return middle[0] if middle else names[len(names) // 2]
