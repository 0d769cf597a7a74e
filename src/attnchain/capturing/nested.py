"""Padded rows of torch's encoder: zero on its fast path, which a capture leaves."""

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn


def keep_padded_rows(model: nn.Module, stack: ExitStack) -> None:
    """Makes every `nn.TransformerEncoder` give the padded rows it gives by itself.

    In evaluation it packs a padded batch into a nested tensor, and padded rows come out
    as zeros. Inside a capture the batch stays padded, so they are set to zero where the
    encoder would have packed it.

    Args:
        model: Any torch module; torch's fast path must not be switched off yet.
        stack: Takes the hooks away again.
    """
    if not torch.backends.mha.get_fastpath_enabled():
        return
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder):
            padding = _Padding(module)
            last: Any = module.layers[-1]
            before = module.register_forward_pre_hook(padding.find, with_kwargs=True)
            after = last.register_forward_hook(padding.clear)
            stack.callback(before.remove)
            stack.callback(after.remove)


class _Padding:
    """Which rows of the running call are padding, where they would be dropped."""

    def __init__(self, encoder: nn.TransformerEncoder) -> None:
        self.encoder = encoder
        self.rows: Tensor | None = None

    def find(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Notes the padded rows of a call that would be packed."""
        names = ("src", "mask", "src_key_padding_mask")
        given = dict(zip(names, args, strict=False)) | kwargs
        src, padding = given["src"], given.get("src_key_padding_mask")
        self.rows = None
        if padding is None or given.get("mask") is not None:
            return
        hidden = padding if padding.dtype == torch.bool else padding != 0
        if self._would_pack(src, ~hidden):
            self.rows = hidden

    def clear(self, _: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
        """Sets padded rows of the last layer to zero."""
        del args
        return out if self.rows is None else out.masked_fill(self.rows[..., None], 0.0)

    def _would_pack(self, src: Tensor, live: Tensor) -> bool:
        """The conditions of `nn.TransformerEncoder.forward`."""
        first: Any = self.encoder.layers[0]
        is_aligned: Any = getattr(torch, "_nested_tensor_from_mask_left_aligned")  # noqa: B009
        tracked = torch.is_grad_enabled() and (
            src.requires_grad or any(p.requires_grad for p in first.parameters())
        )
        return (
            bool(getattr(self.encoder, "use_nested_tensor", False))
            and not first.training
            and src.dim() == 3
            and not src.is_nested
            and not torch.is_autocast_enabled()
            and not tracked
            and (
                not getattr(self.encoder, "mask_check", True)
                or bool(is_aligned(src, live))
            )
        )
