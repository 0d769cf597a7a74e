"""The one mechanism: a torch function mode for the calls, hooks for their names."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from attnchain.capturing.call import Call
from attnchain.capturing.grid import TokenGrid
from attnchain.capturing.layout import Layout
from attnchain.capturing.layouts import find_layout
from attnchain.capturing.seen import Copier, Seen
from attnchain.capturing.shelf import Shelf
from attnchain.capturing.site import AttentionSite, Kind

GivenGrid = TokenGrid | Callable[[str, int], TokenGrid] | None


class Recorder:
    """Follows the running modules and puts attention calls on a shelf."""

    def __init__(
        self, model: nn.Module, shelf: Shelf, copier: Copier, grid: GivenGrid
    ) -> None:
        self.root = Call("", model)
        self.shelf = shelf
        self.copier = copier
        self.grid = grid
        self.stack: list[Call] = []
        self.layers: dict[tuple[str, int, Kind], int] = {}
        self.times: Counter[str] = Counter()
        self.forward = -1
        self.step: int | None = None

    @contextmanager
    def following(self) -> Iterator[None]:
        """Hooks all modules of the model, and unhooks them whatever happens."""
        hooks = []
        try:
            for name, module in self.root.module.named_modules():
                plain = name.replace("_orig_mod.", "").replace("_orig_mod", "")
                hooks.append(
                    module.register_forward_pre_hook(
                        self._entering(plain), with_kwargs=True
                    )
                )
                hooks.append(
                    module.register_forward_hook(self._leave, always_call=True)
                )
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def see(self, seen: Seen) -> None:
        """Keeps a call of fused attention, if it was chosen."""
        call = self.stack[-1] if self.stack else self.root
        layout = self._layout(call, seen)
        site = self._site(call, layout, seen)
        if self.shelf.wants(site, layout):
            self.shelf.put(
                site,
                seen.nbytes(self.copier.keep),
                lambda: self.copier.record(site, seen, layout),
            )

    def _entering(self, name: str) -> Callable[..., None]:
        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict) -> None:
            if not self.stack:
                self.forward += 1
                self.times.clear()
            self.stack.append(Call(name, module, args, kwargs))

        return enter

    def _leave(self, *_: Any) -> None:
        self.stack.pop()

    def _layout(self, call: Call, seen: Seen) -> Layout:
        if self.grid is None:
            layout = find_layout([self.root, *self.stack], *seen.lengths)
        elif isinstance(self.grid, TokenGrid):
            layout = Layout.of(self.grid)
        else:
            queries, keys = (self.grid(call.name, n) for n in seen.lengths)
            layout = Layout(queries, keys)
        return layout.fitted(*seen.lengths)

    def _site(self, call: Call, layout: Layout, seen: Seen) -> AttentionSite:
        kind = _kind(call, layout, seen)
        occurrence = (call.name, self.times[call.name], kind)
        self.times[call.name] += 1
        n_layers = self.shelf.result.n_layers
        if occurrence not in self.layers:
            self.layers[occurrence] = n_layers[kind]
            n_layers[kind] += 1
        return AttentionSite(
            layer=self.layers[occurrence],
            name=call.name,
            kind=kind,
            forward=max(self.forward, 0),
            step=self.step,
        )


class Watch(TorchFunctionMode):
    """Shows every call of fused attention to a recorder, then lets it run."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(
        self, func: Callable, types: Any, args: Any = (), kwargs: dict | None = None
    ) -> Any:
        """Runs a torch function; fused attention is seen first."""
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            self.recorder.see(Seen.of(args, kwargs))
        elif func is functional.multi_head_attention_forward:
            with self:
                return _MULTI_HEAD(*args, **kwargs)
        return func(*args, **kwargs)


def _kind(call: Call, layout: Layout, seen: Seen) -> Kind:
    """Tells self-, cross- and joint attention apart, by what the module was given."""
    if layout.is_joint:
        return "joint"
    n_queries, n_keys = seen.lengths
    other = call.second_sequence()
    if other is None:
        cached = call.kwargs.get("past_key_values") is not None
        return "self" if n_queries == n_keys or cached else "cross"
    joint = n_queries == n_keys != other.shape[1]
    return "joint" if joint else "cross"


def _without_override(function: Callable) -> Callable:
    """A copy of a torch function that runs its body under a function mode.

    The original hands itself to the mode before its body runs, so a mode would never
    see the calls inside it.
    """
    names = function.__globals__ | {"has_torch_function": lambda _: False}
    copy = FunctionType(
        function.__code__, names, function.__name__, function.__defaults__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


_MULTI_HEAD = _without_override(functional.multi_head_attention_forward)
