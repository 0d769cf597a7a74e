"""Switches a model to fused attention for the capture, and back afterwards."""

# pyright: reportUnknownMemberType=false

import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, cast

import torch
from torch import nn

from attnchain.capturing.nested import keep_padded_rows
from attnchain.errors import UnsupportedModelError

OTHER_KERNELS = ("flash", "flex", "sage", "paged", "kernels", "xformers", "aiter")


@contextmanager
def fused_attention(model: nn.Module) -> Generator[None]:
    """Makes a model call torch's fused attention where it can be told to.

    transformers models with eager attention use "sdpa", timm modules their fused
    path, `nn.MultiheadAttention` leaves its fast path and compiled models run
    uncompiled. All is restored at the end. Where gradient checkpointing will run parts
    of the model again, perhaps after that, they are left as they are.

    Args:
        model: Any torch module.

    Raises:
        UnsupportedModelError: The model uses another kernel or cannot be switched;
            the message says what to set.
    """
    with ExitStack() as stack:
        named = cast("Iterator[tuple[str, nn.Module]]", model.named_modules())
        for name, module in named:
            _check_readable(name, module)
        if not _recomputes(model):
            for module in model.modules():
                _switch_timm(module, stack)
            _switch_transformers(model, stack)
        keep_padded_rows(model, stack)
        stack.callback(
            torch.backends.mha.set_fastpath_enabled,
            torch.backends.mha.get_fastpath_enabled(),
        )
        torch.backends.mha.set_fastpath_enabled(False)
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def _recomputes(model: nn.Module) -> bool:
    """Tells whether the backward pass will run parts of the forward pass again."""
    words = ("gradient_checkpointing", "grad_checkpointing")
    return torch.is_grad_enabled() and any(
        module.training and any(getattr(module, word, False) is True for word in words)
        for module in model.modules()
    )


def _check_readable(name: str, module: nn.Module) -> None:
    """Raises where a module is known to compute attention out of our sight."""
    if isinstance(module, torch.jit.ScriptModule):
        message = (
            f"{name or 'the model'} is a scripted module, whose calls cannot be seen; "
            f"capture the model it was scripted from"
        )
        raise UnsupportedModelError(message)
    backend = getattr(getattr(module, "processor", None), "_attention_backend", None)
    if backend is not None and _is_other_kernel(
        str(getattr(backend, "value", backend))
    ):
        message = (
            f"{name} uses the attention back end {backend}, which hides queries and "
            f"keys; call set_attention_backend('native') on the model first"
        )
        raise UnsupportedModelError(message)


def _switch_timm(module: Any, stack: ExitStack) -> None:
    """Takes the fused path of a module that has one and does not use it."""
    if getattr(module, "fused_attn", None) is False:
        stack.callback(setattr, module, "fused_attn", False)
        module.fused_attn = True


def _switch_transformers(model: nn.Module, stack: ExitStack) -> None:
    """Sets "sdpa" where it is "eager" and can be set, outer models first.

    What cannot be set goes on by hand: backbones without attention, older models, and
    scores with a soft cap, which fused attention does not have.
    """
    owners: dict[int, Any] = {}
    for module in model.modules():
        if hasattr(module, "set_attn_implementation"):
            owners.setdefault(id(module.config), module)
    before = [(owner, owner.config._attn_implementation) for owner in owners.values()]
    for owner, used in before:
        _check_implementation(owner, used)
    if "eager" not in dict(before).values():
        return
    stack.callback(_restore, before)
    eager = [owner for owner, used in before if used == "eager"]
    for owner in eager:
        with suppress(ValueError, ImportError):
            owner.set_attn_implementation("sdpa")
    for owner in filter(_is_capped, eager):
        owner.config._attn_implementation = "eager"


def _restore(before: list[tuple[Any, str | None]]) -> None:
    """Gives each configuration its implementation back, inner ones last."""
    for owner, used in before:
        owner.config._attn_implementation = used


def _is_capped(owner: Any) -> bool:
    """Tells whether scores go through a soft cap before the softmax."""
    return getattr(owner.config, "attn_logit_softcapping", None) is not None


def _check_implementation(owner: Any, used: str | None) -> None:
    if used is not None and _is_other_kernel(used):
        message = (
            f"{type(owner).__name__} uses {used!r} attention, which hides queries and "
            f"keys; call set_attn_implementation('sdpa') on the model first"
        )
        raise UnsupportedModelError(message)


def _is_other_kernel(name: str) -> bool:
    return not name.startswith("_native") and any(
        word in name for word in OTHER_KERNELS
    )
