"""Follows the modules that run, and records the attention that is seen in them."""

# pyright: reportUnknownMemberType=false

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import get_ident
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from attnchain.capturing.backward import Trace
from attnchain.capturing.by_hand import Softmaxes
from attnchain.capturing.calls import (
    AttentionCall,
    RunningModule,
    is_split_in_heads,
    told_tokens,
)
from attnchain.capturing.grid import TokenGrid
from attnchain.capturing.layouts import find_layout
from attnchain.capturing.pipelines import Denoising, Part
from attnchain.capturing.provenance import Parts, Provenance, is_plain
from attnchain.capturing.recording import Recording
from attnchain.capturing.sites import AttentionSite, Kind, tower
from attnchain.capturing.token_layout import UNKNOWN, Layout
from attnchain.errors import UnsupportedModelError

IN_BLOCKS = {
    "transformers.BigBirdBlockSparseAttention",
    "transformers.BigBirdPegasusBlockSparseAttention",
}
"""Their softmaxes run over gathered blocks of keys and are no rows over the tokens."""

GivenGrid = TokenGrid | Callable[[str, int], TokenGrid | None] | None


class Recorder:
    """Knows what is running: which module, which forward pass, which step.

    Only the thread it was made in is followed; others may run the model meanwhile.
    """

    def __init__(
        self,
        model: nn.Module,
        recording: Recording,
        grid: GivenGrid = None,
        denoising: Denoising | None = None,
        *,
        gradients: bool = False,
    ) -> None:
        self.recording = recording
        self.running: list[RunningModule] = []
        self.provenance = Provenance()
        self._unread: dict[str, None] = {}
        self.has_run = False
        self.ran_elsewhere = False
        self._root = RunningModule("", model)
        self._grid = grid
        self._denoising = denoising
        self._thread = get_ident()
        self._passes = Passes()
        self._softmaxes = Softmaxes()
        self._attending: dict[int, set[tuple[int, int]]] = {}
        self._gradients = gradients
        self._untold: list[Trace] = []
        self._places: dict[tuple[str, int, Kind], int] = {}

    @property
    def names(self) -> list[str]:
        """Names of the modules in which attention was seen."""
        return [name or "model" for name, *_ in self.recording.counts.layers]

    @property
    def unread(self) -> list[str]:
        """Names of the modules whose attention could not be followed."""
        unused = (name or "the model" for name in self._softmaxes.unused.values())
        return list(dict.fromkeys([*self._unread, *unused]))

    @contextmanager
    def following(self) -> Generator[None]:
        """Hooks all modules of the model, and unhooks them whatever happens."""
        hooks: list[RemovableHandle] = []
        try:
            for name, module in self._root.module.named_modules():
                enter = self._entering(_plain(name))
                hooks += [
                    module.register_forward_pre_hook(enter, with_kwargs=True),
                    module.register_forward_hook(self._leave, always_call=True),
                ]
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def see(self, call: AttentionCall, parts: Parts) -> None:
        """Keeps a call of fused attention by the running model, if it is chosen.

        Args:
            call: The call.
            parts: Queries, keys and values as the model computed them.
        """
        if self.provenance.is_packed(parts[0]):
            call = call.unpacked()
        heads = self.running[-1].heads()
        if heads and self._has_merged_heads(parts[0], heads):
            call = call.with_heads(heads)
        trace = None
        if self._gradients:
            where = self.running[-1].name or "the model"
            trace = Trace.of_call(call.q, call.k, parts[2], where)
        self._record(call, call.lengths, parts, trace)

    def attended(self, output: Tensor) -> None:
        """Notes the output of the fused call that was just seen."""
        for trace in self._untold:
            trace.tensor = output
        self._untold.clear()

    def _has_merged_heads(self, q: Tensor, heads: int) -> bool:
        """Tells whether `(pictures x heads, n, d)` was given, by the width d."""
        inputs = self.running[-1].tensors()
        widths = {x.shape[-1] for x in inputs}
        split = q.ndim == 3 and is_split_in_heads(self.running[-1], q.shape[0], heads)
        return split and heads > 1 and heads * q.shape[-1] in widths

    def follow(
        self, func: Callable[..., Any], args: Any, kwargs: Any, result: Any
    ) -> None:
        """Keeps attention that is computed by hand, where it weighs values."""
        stack = [one for one in self.running if not is_plain(one.module)]
        stack = stack or self.running[-1:]
        weighed = self._softmaxes.follow(stack, func, args, kwargs, result)
        if IN_BLOCKS.intersection(self.running[-1].families):
            self._unread[self.running[-1].name or "the model"] = None
        elif weighed is not None:
            lengths = weighed.matrix.shape[2], weighed.matrix.shape[3]
            trace = None
            if self._gradients:
                if weighed.attached is None:
                    message = (
                        f"{self.running[-1].name or 'the model'} moves the axes of its "
                        f"weights, whose gradient cannot be read; capture without "
                        f"gradients=True, or leave it out with name=..."
                    )
                    raise UnsupportedModelError(message)
                shape = weighed.matrix.shape[:3]
                trace = Trace(tuple(shape), tensor=weighed.attached)
            self._record(weighed.matrix, lengths, weighed.parts, trace)

    def _record(
        self,
        seen: AttentionCall | Tensor,
        lengths: tuple[int, int],
        parts: Parts,
        trace: Trace | None,
    ) -> None:
        """Keeps attention at its site, if it is chosen."""
        self._attending.setdefault(self.running[-1].serial, set()).add(lengths)
        kind = self.provenance.kind(self.running, lengths, parts)
        if kind == "self" and self._is_among_channels(lengths):
            kind = "channel"
        layout = self._layout(kind, lengths)
        if layout.is_joint:
            kind = "joint"
        site = self._site(kind)
        by_hand = isinstance(seen, Tensor)
        pictures = len(seen) if by_hand else seen.q.shape[0]
        told = None
        if by_hand and kind == "self":
            told = told_tokens(self.running, pictures, lengths)
        for branch, part in self._parts(pictures):
            place = replace(site, branch=branch)
            if self.recording.wants(place, layout):
                chosen = seen[part] if by_hand else seen.part(part)
                tokens = None if told is None else told[part]
                self.recording.keep(place, chosen, layout, tokens, trace)
                if trace is not None and trace.tensor is None:
                    self._untold.append(trace)

    def check_fused(self) -> None:
        """Raises where gradients are asked for and weights are multiplied by hand."""
        if self._gradients:
            message = (
                f"{self.running[-1].name or 'the model'} is asked for its attention "
                f"weights, which hides the gradient; call it with need_weights=False"
            )
            raise UnsupportedModelError(message)

    def refuse(self, kernel: str) -> None:
        """Raises when the model computes attention where it cannot be seen."""
        message = (
            f"{self.running[-1].name or 'the model'} calls {kernel}, which hides "
            f"queries and keys; switch to torch's scaled_dot_product_attention: "
            f"set_attn_implementation('sdpa') in transformers, "
            f"set_attention_backend('native') in diffusers"
        )
        raise UnsupportedModelError(message)

    def _entering(self, name: str) -> Callable[..., None]:
        def enter(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> None:
            if get_ident() != self._thread:
                self.ran_elsewhere = True
                return
            if module is self._root.module:
                self._forget(0)
            if not self.running:
                self.has_run = True
                self._passes.begin(name)
                self.provenance.begin()
            self.running.append(RunningModule(name, module, args, kwargs))
            self.provenance.enter(self.running[-1])

        return enter

    def _leave(self, module: nn.Module, *_: Any) -> None:
        """Forgets a module and what an interruption left behind inside it.

        A module whose call another hook stopped before ours was never entered.
        """
        if get_ident() != self._thread:
            return
        for depth in reversed(range(len(self.running))):
            if self.running[depth].module is module:
                self._forget(depth)
                break

    def _forget(self, depth: int) -> None:
        self.provenance.leave(self.running[depth:])
        for running in self.running[depth:]:
            seen = self._attending.pop(running.serial, set())
            for lengths in seen:
                self._softmaxes.unused.pop((running.serial, *lengths), None)
            if running in self._softmaxes.others:
                del self._softmaxes.others[running]
                if "att" in type(running.module).__name__.lower() and not seen:
                    self._unread[running.name or "the model"] = None
        del self.running[depth:]

    def _is_among_channels(self, lengths: tuple[int, int]) -> bool:
        """Tells whether a module given tokens attends from channel to channel."""
        running = self.running[-1]
        heads = running.heads()
        given = running.tensors()
        if heads is None or not given or given[0].ndim != 3:
            return False
        n_tokens, width = given[0].shape[-2:]
        return lengths == (width // heads,) * 2 and n_tokens not in lengths

    def _parts(self, n_pictures: int) -> list[Part]:
        if self._denoising is None:
            return [(None, slice(None))]
        return self._denoising.parts(self.running, n_pictures)

    def _layout(self, kind: Kind, lengths: tuple[int, int]) -> Layout:
        if self._grid is None:
            layout = find_layout([self._root, *self.running], kind, *lengths)
        elif isinstance(self._grid, TokenGrid):
            layout = Layout.of(self._grid)
        else:
            name = self.running[-1].name
            queries, keys = (self._grid(name, n) or UNKNOWN for n in lengths)
            layout = Layout(queries, keys)
        return layout.fitted(*lengths)

    def _site(self, kind: Kind) -> AttentionSite:
        """Names the place; its layer is counted where it is seen first."""
        running, counts = self.running[-1], self.recording.counts
        forward = self._passes.number(running.name)
        repeat, call = self._passes.occurrence(running, kind)
        layer = self._layer(running.name, repeat, kind)
        counts.passes[tower(running.name)] = forward + 1
        step = None
        if self._denoising is not None:
            step = self._denoising.step
            counts.n_steps = max(counts.n_steps, step + 1)
        return AttentionSite(layer, running.name, kind, forward, step, call=call)

    def _layer(self, name: str, repeat: int, kind: Kind) -> int:
        """The number of a layer; two denoisers number their layers alike."""
        counts = self.recording.counts
        two = isinstance(self._root.module, nn.ModuleDict) and self._denoising
        place = (name.partition(".")[2] if two else name, repeat, kind)
        number = self._places.setdefault(place, counts.n_layers[kind])
        return counts.layers.setdefault((name, repeat, kind), number)


@dataclass
class _Tower:
    """One stack of layers: its current pass, and the runs of its modules in it."""

    number: int = 0
    run: int = 0
    entries: dict[str, list[int]] = field(default_factory=dict[str, list[int]])


class Passes:
    """Counts the forward passes of each tower of a model.

    A run begins where a module is called from outside the model: the model itself, or
    a part of it. Layers called one by one are one pass until one is called again.
    """

    def __init__(self) -> None:
        self._run = 0
        self._beginning = ""
        self._towers: dict[str, _Tower] = {}
        self._calls: dict[tuple[int, Kind], int] = {}

    def begin(self, name: str) -> None:
        """Notes that a module is called from outside."""
        self._run += 1
        self._beginning = name
        self._calls.clear()

    def number(self, name: str) -> int:
        """Returns the number of the pass in which a module's attention is seen."""
        one = self._towers.setdefault(tower(name), _Tower(run=self._run))
        if one.run != self._run:
            if not self._began_inside(tower(name)) or name in one.entries:
                one.number += 1
                one.entries.clear()
            one.run = self._run
        return one.number

    def occurrence(self, running: RunningModule, kind: Kind) -> tuple[int, int]:
        """Returns which run of a module in its pass this is, and which call in it."""
        entries = self._towers[tower(running.name)].entries.setdefault(running.name, [])
        if running.serial not in entries:
            entries.append(running.serial)
        call = self._calls.get((running.serial, kind), 0)
        self._calls[running.serial, kind] = call + 1
        return entries.index(running.serial), call

    def _began_inside(self, name: str) -> bool:
        """Tells whether the run began with a part of a tower, such as one layer."""
        prefix = f"{name}." if name else ""
        return self._beginning != name and self._beginning.startswith(prefix)


def _plain(name: str) -> str:
    """The module's name without the wrapper that torch.compile puts around it."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")
