"""The place of an attention call in a model, and the choice of places to look at."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import chain
from operator import index
from typing import Any, Literal, SupportsIndex, TypedDict, Unpack, cast

from attnchain.errors import ArgumentError

Kind = Literal["self", "cross", "joint", "channel"]
Branch = Literal["conditional", "unconditional"]
Numbers = SupportsIndex | Iterable[SupportsIndex] | None

KINDS = ("self", "cross", "joint", "channel")
BRANCHES = ("conditional", "unconditional")
COUNTED = ("layers", "steps", "forwards")
MOST_LISTED = 12


@dataclass(frozen=True)
class AttentionSite:
    """Where and when attention was computed.

    Attributes:
        layer: The module's place, counted from 0 in order of execution, among those
            with attention of this kind. A module used again in the same pass, as
            where layers share weights, is another layer.
        name: Name of the innermost module, as in `model.named_modules()`.
        kind: "self" (one sequence), "cross" (queries and keys from two sequences),
            "joint" (text and image tokens in one sequence) or "channel" (from channel
            to channel instead of token to token).
        forward: Count from 0 of the forward passes of this part of the model: the
            calls of a denoiser, or the tokens that `generate` makes. An encoder or
            vision tower that runs on its own has passes of its own.
        step: Denoising step, counted from 0; None outside a diffusion pipeline.
        branch: Side of classifier-free guidance; None where it is not used.
        call: Count from 0 of the calls that the module makes in one run: pictures or
            windows of different sizes, or text and picture prompts one by one.
    """

    layer: int
    name: str
    kind: Kind
    forward: int = 0
    step: int | None = None
    branch: Branch | None = None
    call: int = 0

    def __str__(self) -> str:
        """Returns the site in one line, as error messages show it."""
        parts = [self.name or "model"]
        if self.step is not None:
            parts.append(f"step {self.step}")
        elif self.forward:
            parts.append(f"forward pass {self.forward}")
        if self.branch is not None:
            parts.append(self.branch)
        if self.call:
            parts.append(f"call {self.call}")
        return f"{self.kind} layer {self.layer} ({', '.join(parts)})"


class Selection(TypedDict, total=False):
    """Keywords that choose sites, beside their layers.

    Attributes:
        name: Pattern for the module's name, as in a shell: `"*attn1"`.
        kind: "self", "cross", "joint" or "channel".
        steps: Denoising steps, counted from 0; -1 is the last.
        forwards: Forward passes, counted from 0 for each part that runs on its own;
            -1 is the last. `generate` reads the prompt in pass 0.
        resolution: Rows and columns of the patch grid of the queries.
        branch: "conditional" or "unconditional" side of guidance.
    """

    name: str | None
    kind: Kind | None
    steps: Numbers
    forwards: Numbers
    resolution: tuple[int, int] | None
    branch: Branch | None


@dataclass
class Counts:
    """What a running model has shown so far.

    Attributes:
        layers: Number of each layer: a module, which of its runs in a pass, its kind.
        passes: Forward passes of each tower.
        n_steps: Denoising steps.
    """

    layers: dict[tuple[str, int, Kind], int] = field(
        default_factory=dict[tuple[str, int, Kind], int]
    )
    passes: Counter[str] = field(default_factory=Counter[str])
    n_steps: int = 0

    @property
    def n_layers(self) -> Counter[Kind]:
        """How many layers there are of each kind."""
        distinct = {(kind, number) for (_, _, kind), number in self.layers.items()}
        counts: Counter[Kind] = Counter()
        for _, _, kind in self.layers:
            counts[kind] = sum(other == kind for other, _ in distinct)
        return counts

    def chosen_layers(self, kind: Kind, choice: "Choice") -> list[int]:
        """Numbers of the layers of one kind whose names are chosen."""
        numbers = {
            number: None
            for (name, _, other), number in self.layers.items()
            if other == kind and choice.fits_name(name)
        }
        return list(numbers)


def tower(name: str) -> str:
    """Returns the part of a model that a module is a layer of: `encoder.layers`."""
    parts = name.split(".")
    numbers = [i for i, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[0] if numbers else -1])


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
            ArgumentError: There is no such keyword, kind or branch, or a number is
                none.
        """
        unknown = [word for word in selection if word not in cls.__annotations__]
        if unknown:
            message = (
                f"sites cannot be chosen by {', '.join(unknown)}; choose by "
                f"{', '.join(cls.__annotations__)}"
            )
            raise ArgumentError(message)
        kind, branch = selection.get("kind"), selection.get("branch")
        for word, value, valid in (("kind", kind, KINDS), ("branch", branch, BRANCHES)):
            if value is not None and value not in valid:
                message = f"{word} must be one of {', '.join(valid)}, not {value!r}"
                raise ArgumentError(message)
        counts = {"layers": layers}
        counts |= {word: selection.get(word) for word in ("steps", "forwards")}
        numbers = {word: _as_numbers(word, value) for word, value in counts.items()}
        resolution = _as_resolution(selection.get("resolution"))
        chosen: dict[str, Any] = {**selection, **numbers, "resolution": resolution}
        return cls(**chosen)

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

    def fits_name(self, name: str) -> bool:
        """Tells whether a module's name is chosen."""
        return self.name is None or fnmatchcase(name, self.name)

    def fits(self, site: AttentionSite, counts: Counts, *, final: bool = True) -> bool:
        """Tells whether a site is chosen.

        Args:
            site: The site.
            counts: What was seen; negative numbers count back from there.
            final: Whether that is all. While more may follow, a site that may yet
                turn out to be one of the last is taken for chosen.
        """
        if not (
            self.fits_name(site.name)
            and self.kind in (None, site.kind)
            and self.branch in (None, site.branch)
        ):
            return False
        layers = counts.chosen_layers(site.kind, self)
        place = layers.index(site.layer) if site.layer in layers else site.layer
        passes = counts.passes[tower(site.name)]
        back = {"layers": place - len(layers), "forwards": site.forward - passes}
        numbers = {"layers": site.layer, "forwards": site.forward}
        if site.step is not None:
            numbers["steps"], back["steps"] = site.step, site.step - counts.n_steps
        elif self.steps is not None:
            return False
        return all(
            _fits(getattr(self, word), numbers[word], back[word], final=final)
            for word in numbers
        )


def _as_numbers(word: str, numbers: Any) -> tuple[int, ...] | None:
    if numbers is None:
        return None
    given = cast("Iterable[Any]", numbers)
    several = given if isinstance(numbers, Iterable) else [numbers]
    try:
        found = tuple(index(number) for number in several)
    except TypeError:
        found = ()
    if not found:
        message = f"{word} must be a whole number or several, but is {numbers!r}"
        raise ArgumentError(message)
    return found


def _as_resolution(resolution: Any) -> tuple[int, int] | None:
    if resolution is None:
        return None
    given = cast("Sequence[Any]", resolution)
    if not isinstance(resolution, Sequence) or len(given) != 2:
        message = f"resolution must be (rows, columns), but is {resolution!r}"
        raise ArgumentError(message)
    return given[0], given[1]


def _fits(
    wanted: tuple[int, ...] | None, number: int, back: int, *, final: bool
) -> bool:
    """Tells whether a number is wanted, counted from either end."""
    if wanted is None or number in wanted or back in wanted:
        return True
    return not final and back >= min(wanted)


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
