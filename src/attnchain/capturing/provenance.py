"""Where tensors come from: what keys are is decided by what they were computed from.

While a model runs, each tensor is known to stem from some arguments of the modules that
are running. Values computed from what the queries were computed from are one sequence
with them, whatever the argument is called.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from attnchain.capturing.calls import RunningModule, floating
from attnchain.capturing.sites import Kind

Argument = tuple[int, int]
Origin = frozenset[Argument]
Parts = tuple[Tensor, Tensor, Tensor]

NOWHERE: Origin = frozenset()
PLAIN = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
RESHAPING = (Tensor.reshape, Tensor.view, torch.reshape, Tensor.unflatten)


class Provenance:
    """Follows tensors from the arguments of running modules to attention calls."""

    def __init__(self) -> None:
        self._origins: Any = WeakIdKeyDictionary()
        self._packed: Any = WeakIdKeyDictionary()
        self._arguments: dict[int, list[Tensor]] = {}
        self._lengths: dict[Kind, set[int]] = {"self": set(), "joint": set()}

    def begin(self) -> None:
        """Forgets the sequences of the run before."""
        for lengths in self._lengths.values():
            lengths.clear()

    def enter(self, running: RunningModule) -> None:
        """Notes the arguments of a module that starts to run."""
        if is_plain(running.module):
            return
        given = running.tensors()
        self._arguments[running.serial] = given
        for number, tensor in enumerate(given):
            new = frozenset([(running.serial, number)])
            self._origins[tensor] = self.of(tensor) | new

    def leave(self, running: Iterable[RunningModule]) -> None:
        """Forgets the arguments of modules that have run."""
        for module in running:
            self._arguments.pop(module.serial, None)

    def follow(
        self, func: Callable[..., Any], args: Any, kwargs: Any, result: Any
    ) -> None:
        """Notes what a torch function computed from what."""
        if not self._arguments:
            return
        given = floating((*args, *kwargs.values()))
        origins = {self._origins.get(one) for one in given}
        origins.discard(None)
        if origins:
            origin = self._live(NOWHERE.union(*origins))
            written = args[0] if func is Tensor.__setitem__ else result
            for tensor in floating((written,)):
                self._origins[tensor] = origin
        if func in RESHAPING and isinstance(result, Tensor):
            self._note_packing(given[:1], result)

    def of(self, tensor: Tensor) -> Origin:
        """The arguments that a tensor was computed from."""
        return self._origins.get(tensor, NOWHERE)

    def is_packed(self, queries: Tensor) -> bool:
        """Tells whether the heads of one query were reshaped to several queries."""
        return queries in self._packed

    def kind(
        self,
        stack: Sequence[RunningModule],
        lengths: tuple[int, int],
        parts: Parts,
    ) -> Kind:
        """Tells self-, cross- and joint attention apart.

        Args:
            stack: The running modules, outermost first.
            lengths: Numbers of queries and keys.
            parts: Queries, keys and values as the model computed them.
        """
        levels = [one for one in reversed(stack) if one.serial in self._arguments]
        for running in levels:
            kind = self._kind_within(running, lengths, parts)
            if kind == "self" and running is not levels[0]:
                kind = self._kind_outside(running, parts)
            if kind == "self" and self._is_joint(stack, lengths, parts):
                kind = "joint"
            if kind is not None:
                self._lengths.setdefault(kind, set()).add(lengths[0])
                return kind
        if stack[-1].gives_another_sequence() or lengths[0] != lengths[1]:
            return "cross"
        return "self"

    def _kind_within(
        self,
        running: RunningModule,
        lengths: tuple[int, int],
        parts: Parts,
    ) -> Kind | None:
        """The kind, as far as the arguments of one module tell it."""
        of_q, of_k, of_v = (self._numbers(running, part) for part in parts)
        content = of_v if of_v <= of_k and of_v else of_k
        if not content:
            return None
        if of_q & content:
            outside = lengths[0] != lengths[1] and content - of_q
            return "cross" if outside else "self"
        if not of_q:
            return "cross"
        given = self._arguments[running.serial]
        if any(_equal(given[i], given[j]) for i in of_q for j in content):
            return "self"
        direct = [given[i] for i in (*of_q, *content)]
        return None if all(_is_one_of(x, direct) for x in parts[:2]) else "cross"

    def _kind_outside(self, running: RunningModule, parts: Parts) -> Kind:
        """The kind where queries and values were projected in an outer module.

        What went through attention before stems from both sequences.
        """
        of_q, _, of_v = (self._numbers(running, part) for part in parts)
        return "self" if of_q == of_v else "cross"

    def _numbers(self, running: RunningModule, tensor: Tensor) -> set[int]:
        """Numbers of the arguments of one module that a tensor stems from."""
        return {
            number for serial, number in self.of(tensor) if serial == running.serial
        }

    def _is_joint(
        self, stack: Sequence[RunningModule], lengths: tuple[int, int], parts: Parts
    ) -> bool:
        """Tells whether two sequences given to a running module were put in one.

        Later blocks may be given the joined sequence only, padding may be left out of
        it, and pictures may come as latents whose number of patches is known from
        their own attention.
        """
        total = lengths[0]
        if total != lengths[1] or total in self._lengths["joint"]:
            return total == lengths[1]
        shared = self.of(parts[0]) & self.of(parts[2])
        levels = [one for one in reversed(stack) if one.serial in self._arguments]
        for running in levels:
            given = self._arguments[running.serial]
            chosen = [given[i] for serial, i in shared if serial == running.serial]
            sequences = {id(one): one.shape[-2] for one in chosen if one.ndim == 3}
            known = list(sequences.values())
            padded = running is levels[0] and len(known) == 2
            if padded and max(known) < total <= sum(known):
                return True
            if len(known) == 1 and len(chosen) > 1:
                others = self._lengths["self"] - {known[0]}
                if total - known[0] in others:
                    return True
            elif _adds_up(known, total):
                return True
        return False

    def _live(self, origin: Origin) -> Origin:
        live = self._arguments
        if all(one[0] in live for one in origin):
            return origin
        return frozenset(one for one in origin if one[0] in live)

    def _note_packing(self, given: Sequence[Tensor], result: Tensor) -> None:
        """Notes `(B, H, 1, d)` that became `(B, groups, H / groups, d)`."""
        if not given or given[0].ndim != 4 or result.ndim != 4:
            return
        before, after = given[0].shape, result.shape
        if (
            before[2] == 1
            and after[2] > 1
            and (before[0], before[3]) == (after[0], after[3])
        ):
            self._packed[result] = True


def is_plain(module: nn.Module) -> bool:
    """Layers of torch itself, in which attention is never computed."""
    own = type(module).__module__.startswith("torch.nn.modules")
    return own and not isinstance(module, PLAIN)


def _adds_up(lengths: list[int], total: int) -> bool:
    """Tells whether two of some lengths, or all of them, add up to a total."""
    pairs = {a + b for i, a in enumerate(lengths) for b in lengths[:i]}
    return total in pairs or (len(lengths) > 1 and total == sum(lengths))


def _is_one_of(tensor: Tensor, others: Iterable[Tensor]) -> bool:
    """Tells whether a tensor looks at the memory of another."""
    if tensor.is_meta:
        return any(tensor is other for other in others)
    place = tensor.untyped_storage().data_ptr()
    return any(other.untyped_storage().data_ptr() == place for other in others)


def _equal(one: Tensor, other: Tensor) -> bool:
    """Tells whether two arguments are the same sequence, also when computed twice."""
    if one is other or one.shape != other.shape or one.is_meta:
        return one is other
    return torch.equal(one, other)
