"""Where the picture's patches, the text and the special tokens lie in a sequence."""

# pyright: reportUnknownMemberType=false

from dataclasses import dataclass, field
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.errors import GridError, ImageError


@dataclass(frozen=True)
class TokenGrid:
    """Layout of one token sequence: prefix, then rows x columns patches, then suffix.

    Prefix and suffix hold everything that is not a patch: class, distillation and
    register tokens, or the text of a joint text-image sequence. A pure text sequence
    has no patches (`TokenGrid.of_text`); audio is one row of frames. Pictures among
    the words of a prompt may be several, each with a grid (`views`), and their patches
    may have other tokens between them (`places`).

    Args:
        rows: Rows of patches.
        columns: Columns of patches.
        prefix: Tokens before the first patch.
        suffix: Tokens after the last patch; where patches are scattered, all others.
        text: Positions of text tokens in the sequence, inside prefix or suffix; empty
            where the text goes round pictures.
        windows: Windows (down, across) the picture is cut into, where attention
            stays inside windows: the grid then describes one window, and the first
            batch axis runs over pictures x windows.
        shift: Rows and columns by which the picture was rolled up and left before it
            was cut into windows.
        size: Rows and columns of the whole picture where windows reach beyond it.
        frames: Frames of a video, each of rows x columns patches, one after another.
        places: Position in the sequence of every patch, row by row, where a picture
            lies among the words of a prompt; empty where patches just follow prefix.
        picture: Number of the picture, where a sequence holds several.
        more: Grids of the other pictures in the sequence, and of this picture where
            it is given once more in fewer patches.

    Raises:
        GridError: A size is negative, text overlaps the patches, or a patch has no
            place in the sequence.

    Example:
        >>> grid = TokenGrid(rows=2, columns=3, prefix=1)
        >>> grid.n_tokens, grid.patches
        (7, slice(1, 7, None))
        >>> grid.patch_at(90, 10, width=100, height=50)
        2
    """

    rows: int
    columns: int
    prefix: int = 0
    suffix: int = 0
    text: range = range(0)
    windows: tuple[int, int] = (1, 1)
    shift: tuple[int, int] = (0, 0)
    size: tuple[int, int] | None = None
    frames: int = 1
    places: tuple[int, ...] = field(default=(), repr=False)
    picture: int = 0
    more: tuple["TokenGrid", ...] = ()

    def __post_init__(self) -> None:
        counts = (self.rows, self.columns, self.prefix, self.suffix)
        if min(counts) < 0 or min(*self.windows, self.frames) < 1:
            raise GridError(f"sizes of a token grid must be >= 0: {self!r}")
        inside = range(self.prefix, self.prefix + self.n_patches)
        if self.text and (
            self.text.step != 1
            or self.text.stop > self.n_tokens
            or max(self.text.start, inside.start) < min(self.text.stop, inside.stop)
        ):
            message = (
                f"text positions must be a range inside the {self.prefix} prefix or "
                f"{self.suffix} suffix tokens, but they are {self.text}"
            )
            raise GridError(message)
        self._check_places()

    def __str__(self) -> str:
        """Returns the layout in words: `1 special + 4 x 6 patches`."""
        frames = f"{self.frames} x " if self.frames > 1 else ""
        if self.places:
            also = f" and {len(self.more)} more" if self.more else ""
            words = f"{frames}{self.rows} x {self.columns} patches{also}"
            return f"{words} among {self.n_tokens} tokens"
        ahead = self.text and self.text.start < self.prefix
        after = self.text and not ahead
        parts = [
            f"{self.prefix} {'text' if ahead else 'special'}" if self.prefix else "",
            f"{frames}{self.rows} x {self.columns} patches" if self.n_patches else "",
            f"{self.suffix} {'text' if after else 'special'}" if self.suffix else "",
        ]
        words = " + ".join(part for part in parts if part)
        if self.windows == (1, 1):
            return words
        shifted = f" shifted by {self.shift}" if any(self.shift) else ""
        return f"{words} in {self.windows[0]} x {self.windows[1]} windows{shifted}"

    @classmethod
    def of_text(cls, n_tokens: int) -> "TokenGrid":
        """Returns the layout of a sequence of text tokens only."""
        return cls(0, 0, prefix=n_tokens, text=range(n_tokens))

    @property
    def n_patches(self) -> int:
        """Number of patches in one sequence."""
        return self.frames * self.rows * self.columns

    @property
    def n_tokens(self) -> int:
        """Length of the sequence."""
        return self.prefix + self.n_patches + self.suffix

    @property
    def views(self) -> "tuple[TokenGrid, ...]":
        """The grids of all pictures in the sequence, this one first."""
        return self, *self.more

    @property
    def positions(self) -> tuple[int, ...]:
        """Position in the sequence of every patch, row by row, frame by frame."""
        return self.places or tuple(range(self.prefix, self.prefix + self.n_patches))

    @property
    def patches(self) -> slice:
        """Positions of the patches in the sequence, where they are in one piece.

        Raises:
            GridError: Other tokens lie between them; see `positions`.
        """
        after = self.prefix + self.n_patches
        if self.places and self.places != tuple(range(self.prefix, after)):
            raise GridError(
                f"the patches of {self} are not in one piece; use positions"
            )
        return slice(self.prefix, after)

    def boxes(self) -> Float[Tensor, "n_patches 4"]:
        """Returns left, upper, right and lower edge of the patches, row by row.

        They are fractions of the width and height of the picture as the model was
        given it, resized and perhaps cropped by its processor; of LLaVA-NeXT's tiles
        to within a patch, as its padding is cut off by whole patches.

        Raises:
            GridError: The sequence has no patches, or attention is windowed.

        Example:
            >>> TokenGrid(1, 2).boxes().tolist()
            [[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]]
        """
        self._check_whole_picture()
        rows, columns = torch.arange(self.rows), torch.arange(self.columns)
        top, left = torch.meshgrid(rows, columns, indexing="ij")
        edges = torch.stack((left, top, left + 1, top + 1), dim=-1).flatten(0, 1)
        return edges / torch.tensor([self.columns, self.rows] * 2)

    def patch_at(self, x: float, y: float, *, width: float, height: float) -> int:
        """Returns the patch under a point, counted among the patches.

        Its position in the sequence is `prefix` more. The picture is taken to cover
        the whole grid, however it was resized.

        Args:
            x: Pixels from the left edge.
            y: Pixels from the upper edge.
            width: Width of the picture in pixels.
            height: Height of the picture in pixels.

        Raises:
            ImageError: The point lies outside the picture.
            GridError: The sequence has no patches, or attention is windowed.
        """
        self._check_whole_picture()
        if not (0 <= x < width and 0 <= y < height):
            message = (
                f"the point ({x:g}, {y:g}) lies outside the picture; x must be in "
                f"[0, {width:g}) and y in [0, {height:g}), counted in its pixels"
            )
            raise ImageError(message)
        row, column = int(y * self.rows / height), int(x * self.columns / width)
        return min(row, self.rows - 1) * self.columns + min(column, self.columns - 1)

    def to_map(
        self, values: Float[Tensor, "*batch n"]
    ) -> Float[Tensor, "*batch rows columns"]:
        """Reshapes one value for each patch, or each token, to rows x columns.

        A video gives frames x rows x columns.

        Args:
            values: `n_patches` values, or `n_tokens` of which the patches are taken.

        Raises:
            GridError: The last axis has neither length, or there are no patches.
        """
        if self.n_patches == 0:
            raise GridError(f"a sequence of {self} has no map")
        if values.shape[-1] == self.n_tokens:
            values = values[..., list(self.positions)]
        if values.shape[-1] != self.n_patches:
            message = (
                f"expected {self.n_patches} values for {self.rows} x {self.columns} "
                f"patches, or {self.n_tokens} for all tokens, but the last axis has "
                f"{values.shape[-1]}"
            )
            raise GridError(message)
        frames = (self.frames,) if self.frames > 1 else ()
        return cast("Tensor", values.unflatten(-1, (*frames, self.rows, self.columns)))

    def merge_windows(
        self, values: Float[Tensor, "windows *batch n"]
    ) -> Float[Tensor, "pictures *batch height width"]:
        """Puts the maps of all windows together, undoing the shift.

        Args:
            values: Values for each patch; the first axis runs over pictures and,
                fastest, over their windows row by row.

        Raises:
            GridError: The first axis is not a multiple of the number of windows.
        """
        down, across = self.windows
        if self.frames > 1:
            raise GridError("windows of a video cannot be put together")
        if values.shape[0] % (down * across):
            message = (
                f"expected a multiple of {down} x {across} windows in the first axis, "
                f"but it has {values.shape[0]}"
            )
            raise GridError(message)
        maps = cast("Tensor", self.to_map(values).unflatten(0, (-1, down, across)))
        maps = maps.movedim((1, 2), (-4, -2))
        whole = maps.flatten(-4, -3).flatten(-2, -1)
        whole = torch.roll(whole, self.shift, dims=(-2, -1))
        if self.size is None:
            return whole
        return whole[..., : self.size[0], : self.size[1]]

    def _check_places(self) -> None:
        n, inside = self.n_patches, range(self.n_tokens)
        if self.places and (
            len(set(self.places)) != n
            or len(self.places) != n
            or min(self.places) != self.prefix
            or max(self.places) not in inside
        ):
            message = (
                f"expected {n} different places among {len(inside)} tokens, the first "
                f"after {self.prefix}, but came {len(self.places)}: {self.places[:8]}"
            )
            raise GridError(message)
        if any(view.n_tokens != self.n_tokens or view.more for view in self.more):
            message = (
                f"more must hold grids of the same {len(inside)} tokens without more "
                f"of their own, but are {self.more}"
            )
            raise GridError(message)

    def _check_whole_picture(self) -> None:
        if self.n_patches == 0:
            raise GridError("a sequence without patches has no place in a picture")
        if self.frames > 1:
            message = (
                f"a video of {self.frames} frames is no single picture; take a frame "
                f"of to_map"
            )
            raise GridError(message)
        if self.windows != (1, 1):
            message = (
                "attention here stays inside windows, so a patch is a window and a "
                "place in it; put maps together with merge_windows"
            )
            raise GridError(message)
