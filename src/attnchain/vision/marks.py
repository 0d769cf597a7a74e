"""What a person marks of an object before asking for it: points and a box."""

from collections.abc import Iterable
from dataclasses import dataclass

from attnchain.errors import ArgumentError
from attnchain.vision.clicks import Clicks, ClickSegmentation
from attnchain.vision.objects import Point, as_point
from attnchain.vision.picture_attention import PictureAttention

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Prompt:
    """Points on the object, points off it, and a box around it.

    Attributes:
        points: (x, y) in pixels of the picture, on the object.
        not_points: The same, off the object.
        box: Left, top, right and bottom in pixels; None without one.
        order: A "+" for each of points and a "-" for each of not_points, in the order
            in which they were made; by default all points come first.

    Raises:
        ArgumentError: Something is no pair or four of numbers, nothing says where the
            object is, or the order has another number of points.

    Example:
        >>> Prompt(points=((3, 4), (5, 6)), not_points=((7, 8),), order="+-+").clicks
        (((3.0, 4.0), True), ((7.0, 8.0), False), ((5.0, 6.0), True))
    """

    points: tuple[Point, ...] = ()
    not_points: tuple[Point, ...] = ()
    box: Box | None = None
    order: str = ""

    def __post_init__(self) -> None:
        for name in ("points", "not_points"):
            points = tuple(as_point(p, f"each of {name}") for p in getattr(self, name))
            object.__setattr__(self, name, points)
        if self.box is not None:
            object.__setattr__(self, "box", _as_box(self.box))
        if not self.points and self.box is None:
            message = "nothing says where the object is: give a point on it, or a box"
            raise ArgumentError(message)
        first = "+" * len(self.points) + "-" * len(self.not_points)
        object.__setattr__(self, "order", self.order or first)
        if sorted(self.order) != sorted(first):
            message = (
                f"the order must have a '+' for each of {len(self.points)} points and "
                f"a '-' for each of {len(self.not_points)} not_points, but is "
                f"{self.order!r}"
            )
            raise ArgumentError(message)

    @property
    def clicks(self) -> tuple[tuple[Point, bool], ...]:
        """Every point in its order, and whether it is on the object."""
        on, off = iter(self.points), iter(self.not_points)
        return tuple(
            (next(on), True) if sign == "+" else (next(off), False)
            for sign in self.order
        )

    @property
    def is_point(self) -> bool:
        """Whether it is one point and nothing else."""
        return len(self.points) == 1 and not self.not_points and self.box is None


def segment_prompt(attention: PictureAttention, prompt: Prompt) -> ClickSegmentation:
    """The object that points and a box ask for, see `Clicks.segment`.

    The box is marked first, then the points in their order.

    Args:
        attention: What `read_attention` returned.
        prompt: The marks.

    Returns:
        `ClickSegmentation`.

    Raises:
        ImageError: A point lies outside the picture, or the box misses it.
    """
    session = Clicks(attention)
    if prompt.box is not None:
        session = session.box(*prompt.box)
    for (x, y), positive in prompt.clicks:
        session = session.add(x, y, positive=positive)
    return session.segment()


def _as_box(box: Iterable[float]) -> Box:
    try:
        left, top, right, bottom = map(float, box)
    except (TypeError, ValueError) as error:
        message = f"a box must be left, top, right, bottom in pixels, but is {box!r}"
        raise ArgumentError(message) from error
    if not (left < right and top < bottom):
        message = (
            f"a box must have left < right and top < bottom, but is "
            f"({left:g}, {top:g}, {right:g}, {bottom:g})"
        )
        raise ArgumentError(message)
    return left, top, right, bottom
