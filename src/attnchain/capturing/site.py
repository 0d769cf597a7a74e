"""The place of an attention call in a model, and the choice of places to look at."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain
from operator import index
from typing import Any, Literal, SupportsIndex, TypedDict, Unpack

from attnchain.errors import SiteNotFoundError

Kind = Literal["self", "cross", "joint"]
Branch = Literal["conditional", "unconditional"]
Numbers = SupportsIndex | Iterable[SupportsIndex] | None

KINDS = ("self", "cross", "joint")
BRANCHES = ("conditional", "unconditional")
COUNTED = ("layers", "steps", "forwards")
MOST_LISTED = 12


@dataclass(frozen=True)
class AttentionSite:
    """Where and when attention was computed.

    Attributes:
        layer: Count from 0, in order of execution, among the sites of this kind.
        name: Name of the innermost module, as in `model.named_modules()`.
        kind: "self" (one sequence), "cross" (queries and keys from two sequences) or
            "joint" (text and image tokens in one sequence).
        forward: Count from 0 of the forward passes of the model: the calls of a
            denoiser, or the tokens that `generate` makes.
        step: Denoising step, counted from 0; None outside a diffusion pipeline.
        branch: Side of classifier-free guidance; None where it is not used.
    """

    layer: int
    name: str
    kind: Kind
    forward: int = 0
    step: int | None = None
    branch: Branch | None = None

    def __str__(self) -> str:
        """Returns the site in one line, as error messages show it."""
        parts = [self.name or "model"]
        if self.step is not None:
            parts.append(f"step {self.step}")
        elif self.forward:
            parts.append(f"forward pass {self.forward}")
        if self.branch is not None:
            parts.append(self.branch)
        return f"{self.kind} layer {self.layer} ({', '.join(parts)})"


class Selection(TypedDict, total=False):
    """Keywords that choose sites, beside their layers.

    Attributes:
        name: Pattern for the module's name, as in a shell: `"*attn1"`.
        kind: "self", "cross" or "joint".
        steps: Denoising steps, counted from 0; -1 is the last.
        forwards: Forward passes of the model, counted from 0; -1 is the last.
            `generate` reads the prompt in pass 0.
        resolution: Rows and columns of the patch grid of the queries.
        branch: "conditional" or "unconditional" side of guidance.
    """

    name: str | None
    kind: Kind | None
    steps: Numbers
    forwards: Numbers
    resolution: tuple[int, int] | None
    branch: Branch | None


@dataclass(frozen=True)
class Choice:
    """The keywords of a selection, checked; None leaves a property free."""

    layers: tuple[int, ...] | None = None
    name: str | None = None
    kind: Kind | None = None
    steps: tuple[int, ...] | None = None
    forwards: tuple[int, ...] | None = None
    resolution: tuple[int, int] | None = None
    branch: Branch | None = None

    @classmethod
    def of(cls, layers: Numbers = None, **selection: Unpack[Selection]) -> "Choice":
        """Returns the choice that keywords of the public functions describe.

        Raises:
            SiteNotFoundError: There is no such kind or branch, or a number is none.
            TypeError: There is no such keyword.
        """
        unknown = [word for word in selection if word not in cls.__annotations__]
        if unknown:
            message = (
                f"sites cannot be chosen by {', '.join(unknown)}; choose by "
                f"{', '.join(cls.__annotations__)}"
            )
            raise TypeError(message)
        kind, branch = selection.get("kind"), selection.get("branch")
        for word, value, valid in (("kind", kind, KINDS), ("branch", branch, BRANCHES)):
            if value is not None and value not in valid:
                message = f"{word} must be one of {', '.join(valid)}, not {value!r}"
                raise SiteNotFoundError(message)
        counts = {"layers": layers}
        counts |= {word: selection.get(word) for word in ("steps", "forwards")}
        numbers = {word: _as_numbers(word, value) for word, value in counts.items()}
        resolution = _as_resolution(selection.get("resolution"))
        return cls(**{**selection, **numbers, "resolution": resolution})

    def __str__(self) -> str:
        """Returns what was asked for in one line, as error messages show it."""
        asked = {
            word: value[0] if word in COUNTED and len(value) == 1 else value
            for word, value in vars(self).items()
            if value is not None
        }
        return ", ".join(f"{word}={value!r}" for word, value in asked.items())

    @property
    def counts_back(self) -> bool:
        """Tells whether a layer, step or forward pass is counted from the end."""
        numbers = (getattr(self, word) or () for word in COUNTED)
        return any(number < 0 for number in chain(*numbers))

    def fits_place(self, name: str, kind: Kind) -> bool:
        """Tells whether a module's name and kind are chosen."""
        return self.fits_name(name) and self.kind in (None, kind)

    def fits_name(self, name: str) -> bool:
        """Tells whether a module's name is chosen."""
        return self.name is None or fnmatchcase(name, self.name)

    def fits_layer(self, layer: int, n_layers: int, *, yet: bool = False) -> bool:
        """Tells whether a layer is chosen, counted from either end.

        Args:
            layer: Number of the layer.
            n_layers: How many layers there are, or were seen so far.
            yet: Whether more may follow, so that a layer may yet be one of the last.
        """
        return _fits(self.layers, layer, n_layers, yet=yet)

    def fits_step(self, step: int | None, n_steps: int, *, yet: bool = False) -> bool:
        """Tells whether a denoising step is chosen; arguments as for `fits_layer`."""
        if step is None:
            return self.steps is None
        return _fits(self.steps, step, n_steps, yet=yet)

    def fits_forward(self, forward: int, n_forwards: int, *, yet: bool = False) -> bool:
        """Tells whether a forward pass is chosen; arguments as for `fits_layer`."""
        return _fits(self.forwards, forward, n_forwards, yet=yet)


def _as_numbers(word: str, numbers: Any) -> tuple[int, ...] | None:
    if numbers is None:
        return None
    several = numbers if isinstance(numbers, Iterable) else [numbers]
    try:
        found = tuple(index(number) for number in several)
    except TypeError:
        found = ()
    if not found:
        message = f"{word} must be a whole number or several, but is {numbers!r}"
        raise SiteNotFoundError(message)
    return found


def _as_resolution(resolution: Any) -> tuple[int, int] | None:
    if resolution is None:
        return None
    if not isinstance(resolution, Sequence) or len(resolution) != 2:
        message = f"resolution must be (rows, columns), but is {resolution!r}"
        raise SiteNotFoundError(message)
    rows, columns = resolution
    return rows, columns


def _fits(
    numbers: tuple[int, ...] | None, number: int, total: int, *, yet: bool
) -> bool:
    if numbers is None or number in numbers or number - total in numbers:
        return True
    return yet and number - total >= min(numbers)


def described(sites: Iterable[AttentionSite]) -> str:
    """Returns in one line which kinds, layers, steps, passes and branches there are."""
    found = list(sites)
    kinds = dict.fromkeys(site.kind for site in found)
    parts = [
        f"{kind} {_spanned('layer', {s.layer for s in found if s.kind == kind})}"
        for kind in kinds
    ]
    if steps := {site.step for site in found if site.step is not None}:
        parts.append(_spanned("step", steps))
    forwards = {site.forward for site in found}
    if len(forwards) > 1 and not steps:
        parts.append(_spanned("forward pass", forwards, "es"))
    branches = dict.fromkeys(site.branch for site in found if site.branch)
    return ", ".join((*parts, *branches))


def _spanned(word: str, numbers: set[int], plural: str = "s") -> str:
    """Returns numbers in words: `layer 3`, `layers 1 and 4`, `layers 0 to 11`."""
    distinct = sorted(numbers)
    first, last = distinct[0], distinct[-1]
    if len(distinct) == 1:
        return f"{word} {first}"
    if len(distinct) > 2 and distinct == list(range(first, last + 1)):
        return f"{word}{plural} {first} to {last}"
    return f"{word}{plural} {' and '.join(str(number) for number in distinct)}"


def listed(names: Iterable[object]) -> str:
    """Returns the first few of some names, and how many more there are."""
    distinct = list(dict.fromkeys(str(name) for name in names))
    more = len(distinct) - MOST_LISTED
    return "; ".join(distinct[:MOST_LISTED]) + (f"; {more} more" if more > 0 else "")
