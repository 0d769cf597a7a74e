"""Follows the modules that run, and puts what was seen in them on a shelf."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from threading import get_ident
from typing import Any

from torch import Tensor, nn

from attnchain.capturing.call import Call
from attnchain.capturing.copier import Copier
from attnchain.capturing.denoising import Denoising, Part
from attnchain.capturing.grid import TokenGrid
from attnchain.capturing.layout import UNKNOWN, Layout
from attnchain.capturing.layouts import find_layout
from attnchain.capturing.seen import Seen
from attnchain.capturing.shelf import Shelf
from attnchain.capturing.site import AttentionSite, Kind
from attnchain.errors import UnsupportedModelError

GivenGrid = TokenGrid | Callable[[str, int], TokenGrid | None] | None


class Recorder:
    """Knows what is running: which module, which forward pass, which step.

    Only the thread it was made in is followed; others may run the model meanwhile.
    """

    def __init__(
        self,
        model: nn.Module,
        shelf: Shelf,
        copier: Copier,
        *,
        grid: GivenGrid = None,
        denoising: Denoising | None = None,
    ) -> None:
        self.root = Call("", model)
        self.shelf = shelf
        self.copier = copier
        self.grid = grid
        self.denoising = denoising
        self.stack: list[Call] = []
        self.forward = -1
        self.thread = get_ident()
        self.ran_elsewhere = False
        self.by_hand: dict[str, None] = {}
        self._ran: list[str] = []
        self._calls: Counter[str] = Counter()
        self._layers: dict[tuple[str, int, Kind], int] = {}

    @property
    def names(self) -> list[str]:
        """Names of the modules in which fused attention was seen."""
        return [name or "model" for name, *_ in self._layers]

    @contextmanager
    def following(self) -> Iterator[None]:
        """Hooks all modules of the model, and unhooks them whatever happens."""
        hooks = []
        try:
            for name, module in self.root.module.named_modules():
                enter = self._entering(_plain(name))
                hooks += [
                    module.register_forward_pre_hook(enter, with_kwargs=True),
                    module.register_forward_hook(self._leave, always_call=True),
                ]
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def see(self, seen: Seen) -> None:
        """Keeps a call of fused attention by the running model, if it is chosen."""
        call = self.stack[-1]
        layout = self._layout(call, seen)
        site = self._site(call, layout, seen)
        for branch, pictures in self._parts(seen):
            place = replace(site, branch=branch)
            if self.shelf.wants(place, layout):
                part = seen.part(pictures)
                make = partial(self.copier.record, place, part, layout)
                self.shelf.put(place, self.copier.nbytes(part), make)

    def see_softmax(self, scores: Tensor) -> None:
        """Notes attention computed by hand: a softmax of scores in such a module."""
        call = self.stack[-1]
        named = "att" in type(call.module).__name__.lower()
        if named and scores.ndim >= 3 and not self._calls[call.name]:
            self.by_hand[call.name or "the model"] = None

    def refuse(self, kernel: str) -> None:
        """Raises when the model computes attention where it cannot be seen."""
        message = (
            f"{self.stack[-1].name or 'the model'} calls {kernel}, which hides "
            f"queries and keys; switch to torch's scaled_dot_product_attention: "
            f"set_attn_implementation('sdpa') in transformers, "
            f"set_attention_backend('native') in diffusers"
        )
        raise UnsupportedModelError(message)

    def _entering(self, name: str) -> Callable[..., None]:
        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict) -> None:
            if get_ident() != self.thread:
                self.ran_elsewhere = True
                return
            if module is self.root.module:
                self.stack.clear()
            if not self.stack:
                self._begin(f"{name}." if name else "")
            self.stack.append(Call(name, module, args, kwargs))

        return enter

    def _begin(self, prefix: str) -> None:
        """Counts a forward pass, unless parts run one by one are still going on."""
        if not self._ran or any(
            prefix.startswith(ran) or ran.startswith(prefix) for ran in self._ran
        ):
            self.forward += 1
            self._calls.clear()
            self._ran.clear()
        self._ran.append(prefix)

    def _leave(self, module: nn.Module, *_: Any) -> None:
        """Forgets a module and what an interruption left behind inside it.

        A module whose call another hook stopped before ours was never entered.
        """
        if get_ident() != self.thread:
            return
        for depth in reversed(range(len(self.stack))):
            if self.stack[depth].module is module:
                del self.stack[depth:]
                break

    def _parts(self, seen: Seen) -> list[Part]:
        if self.denoising is None:
            return [(None, slice(None))]
        return self.denoising.parts(self.stack, seen.q.shape[0])

    def _layout(self, call: Call, seen: Seen) -> Layout:
        if self.grid is None:
            layout = find_layout([self.root, *self.stack], *seen.lengths)
        elif isinstance(self.grid, TokenGrid):
            layout = Layout.of(self.grid)
        else:
            queries, keys = (self.grid(call.name, n) or UNKNOWN for n in seen.lengths)
            layout = Layout(queries, keys)
        return layout.fitted(*seen.lengths)

    def _site(self, call: Call, layout: Layout, seen: Seen) -> AttentionSite:
        """Names the place; its layer is counted where it is seen first."""
        kind = _kind(call, layout, seen)
        occurrence = (call.name, self._calls[call.name], kind)
        self._calls[call.name] += 1
        result = self.shelf.result
        if occurrence not in self._layers:
            self._layers[occurrence] = result.n_layers[kind]
            result.n_layers[kind] += 1
        result.n_forwards = self.forward + 1
        step = None
        if self.denoising is not None:
            step = self.denoising.step
            result.n_steps = max(result.n_steps, step + 1)
        layer = self._layers[occurrence]
        return AttentionSite(layer, call.name, kind, self.forward, step)


def _kind(call: Call, layout: Layout, seen: Seen) -> Kind:
    """Tells self-, cross- and joint attention apart, by what the module was given."""
    if layout.is_joint:
        return "joint"
    n_queries, n_keys = seen.lengths
    other = call.second_length()
    if other is None:
        cached = call.kwargs.get("past_key_values") is not None
        return "self" if n_queries == n_keys or cached else "cross"
    return "joint" if n_queries == n_keys != other else "cross"


def _plain(name: str) -> str:
    """The module's name without the wrapper that torch.compile puts around it."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")
