"""The place of an attention call in a model, and the choice of places to look at."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, TypedDict, Unpack

from attnchain.errors import SiteNotFoundError

Kind = Literal["self", "cross", "joint"]
Branch = Literal["conditional", "unconditional"]
Numbers = int | Iterable[int] | None

KINDS = ("self", "cross", "joint")
BRANCHES = ("conditional", "unconditional")


MOST_LISTED = 12


@dataclass(frozen=True)
class AttentionSite:
    """Where and when attention was computed.

    Attributes:
        layer: Count from 0, in order of execution, among the sites of this kind.
        name: Name of the innermost module, as in `model.named_modules()`.
        kind: "self" (one sequence), "cross" (queries and keys from two sequences) or
            "joint" (text and image tokens in one sequence).
        forward: Count from 0 of the forward passes seen.
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
        step = "" if self.step is None else f", step {self.step}"
        branch = "" if self.branch is None else f", {self.branch}"
        return f"{self.kind} layer {self.layer} ({self.name or 'model'}{step}{branch})"


class Selection(TypedDict, total=False):
    """Keywords that choose sites, beside their layers.

    Attributes:
        name: Pattern for the module's name, as in a shell: `"*attn1"`.
        kind: "self", "cross" or "joint".
        steps: Denoising steps, counted from 0; -1 is the last.
        resolution: Rows and columns of the patch grid of the queries.
        branch: "conditional" or "unconditional" side of guidance.
    """

    name: str | None
    kind: Kind | None
    steps: Numbers
    resolution: tuple[int, int] | None
    branch: Branch | None


@dataclass(frozen=True)
class Choice:
    """The keywords of a selection, checked; None leaves a property free."""

    layers: tuple[int, ...] | None = None
    name: str | None = None
    kind: Kind | None = None
    steps: tuple[int, ...] | None = None
    resolution: tuple[int, int] | None = None
    branch: Branch | None = None

    @classmethod
    def of(cls, layers: Numbers = None, **selection: Unpack[Selection]) -> "Choice":
        """Returns the choice that keywords of the public functions describe.

        Raises:
            SiteNotFoundError: There is no such kind or branch.
        """
        kind, branch = selection.get("kind"), selection.get("branch")
        for word, value, valid in (("kind", kind, KINDS), ("branch", branch, BRANCHES)):
            if value is not None and value not in valid:
                message = f"{word} must be one of {', '.join(valid)}, not {value!r}"
                raise SiteNotFoundError(message)
        numbers = {
            "layers": _as_numbers(layers),
            "steps": _as_numbers(selection.get("steps")),
        }
        return cls(**{**selection, **numbers})

    @property
    def counts_back(self) -> bool:
        """Tells whether a layer or step is counted from the end."""
        return any(number < 0 for number in (*(self.layers or ()), *(self.steps or ())))

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


def _as_numbers(numbers: Numbers) -> tuple[int, ...] | None:
    if numbers is None:
        return None
    return (numbers,) if isinstance(numbers, int) else tuple(numbers)


def _fits(
    numbers: tuple[int, ...] | None, number: int, total: int, *, yet: bool
) -> bool:
    if numbers is None or number in numbers or number - total in numbers:
        return True
    return yet and number - total >= min(numbers)


def listed(names: Iterable[object]) -> str:
    """Returns the first few of some names, and how many more there are."""
    distinct = list(dict.fromkeys(str(name) for name in names))
    more = len(distinct) - MOST_LISTED
    return "; ".join(distinct[:MOST_LISTED]) + (f"; {more} more" if more > 0 else "")
