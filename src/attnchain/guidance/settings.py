"""The guidance object: prepare the degraded latents, combine the two predictions."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from attnchain.capturing import TokenGrid
from attnchain.checks import check_number, check_whole
from attnchain.errors import ArgumentError
from attnchain.guidance.degrading import NoiseLevel, blur_inside
from attnchain.guidance.salience import Salience
from attnchain.operators import AbstractTransition


@dataclass(frozen=True)
class AttentionGuidance:
    r"""Self-attention guidance with a choice of what counts as salient.

    The clean picture that a prediction $e$ implies is blurred where salience exceeds
    the threshold and noised again with the same noise; the network's prediction $d$
    for that is steered away from: $e + s\,(e - d)$.

    Args:
        salience: What the attention of a block marks; TokenRank by default.
        scale: s; 0 switches guidance off.
        threshold: Salience above which a token is blurred; the mean token has 1.
        block: Name of the attention module that is read, as in
            `denoiser.named_modules()`; by default the middle one.
        blur_size: Width of the Gaussian kernel in latent pixels, odd.
        blur_sigma: Its standard deviation.
        start: Fraction of the sampling steps before guidance begins.
        stop: Fraction of the sampling steps after which it ends.

    Raises:
        ArgumentError: An option is out of range or no number.

    Sources:
        Hong et al., 2023, for the guidance; its diffusers pipeline for the defaults
        of scale, threshold and blur. Erel et al., arXiv 2507.17657, for TokenRank
        in place of the column sum; threshold n pi > 1 is our reading.

    Example:
        >>> AttentionGuidance.sag(scale=1.0).salience.kind
        'column_sum'
    """

    salience: Salience = field(default_factory=Salience)
    scale: float = 0.75
    threshold: float = 1.0
    block: str | None = None
    blur_size: int = 9
    blur_sigma: float = 1.0
    start: float = 0.0
    stop: float = 1.0

    def __post_init__(self) -> None:
        self._check_kinds()
        if not 0 <= self.start <= self.stop <= 1:
            message = (
                f"start and stop must be fractions with 0 <= start <= stop <= 1, but "
                f"are {self.start} and {self.stop}"
            )
            raise ArgumentError(message)
        if self.blur_size % 2 == 0 or not self.blur_sigma > 0:
            message = (
                f"blur_size must be odd and blur_sigma above 0, but they are "
                f"{self.blur_size} and {self.blur_sigma}"
            )
            raise ArgumentError(message)

    def _check_kinds(self) -> None:
        if not isinstance(self.salience, Salience):
            message = (
                f"salience must be a Salience, such as Salience('column_sum'), but is "
                f"{self.salience!r}"
            )
            raise ArgumentError(message)
        if not isinstance(self.block, str | None):
            message = f"block must be a module's name, but is {self.block!r}"
            raise ArgumentError(message)
        for name in ("scale", "threshold", "blur_sigma", "start", "stop"):
            check_number(getattr(self, name), name)
        check_whole(self.blur_size, "blur_size")

    @classmethod
    def sag(cls, **options: Any) -> "AttentionGuidance":
        """Plain self-attention guidance: salience is the column sum.

        Args:
            **options: Those of the class, without salience.
        """
        return cls(salience=Salience("column_sum"), **options)

    def is_active(self, step: int, steps: int) -> bool:
        """Tells whether a sampling step, counted from 0, is guided."""
        inside = int(self.start * steps) <= step < int(self.stop * steps)
        return inside and self.scale != 0

    def mask(
        self, attention: AbstractTransition, grid: TokenGrid
    ) -> Bool[Tensor, "pictures rows columns"]:
        """Where to blur: patches more salient than the threshold.

        Text tokens take part in the chain and are dropped afterwards; the mean over
        the patches is one again.

        Args:
            attention: Chains of batch shape (pictures, heads).
            grid: Layout of the tokens.

        Raises:
            ShapeError: The batch has other axes.
            GridError: The grid does not fit the tokens.
        """
        values = grid.to_map(self.salience.of(attention))
        if grid.n_patches < grid.n_tokens:
            values = values / values.mean((-2, -1), keepdim=True)
        return values > self.threshold

    def prepare(
        self,
        latents: Float[Tensor, "batch channels height width"],
        predicted: Float[Tensor, "batch channels height width"],
        *,
        level: NoiseLevel,
        mask: Bool[Tensor, "batch rows columns"],
    ) -> Float[Tensor, "batch channels height width"]:
        """The degraded latents, for the second run of the network.

        Args:
            latents: Input of the network.
            predicted: Its prediction.
            level: How noisy the latents are.
            mask: Where to blur, from `mask`.

        Raises:
            ShapeError: The latents are too small for the blur.
        """
        clean, noise = level.split(latents, predicted)
        size, sigma = self.blur_size, self.blur_sigma
        degraded = blur_inside(clean, mask, size=size, sigma=sigma)
        return level.join(degraded, noise)

    def combine(
        self, predicted: Float[Tensor, "..."], degraded: Float[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        """The guided prediction: away from that of the degraded latents."""
        return predicted + self.scale * (predicted - degraded)

    def describe(self) -> dict[str, Any]:
        """All settings as plain values, for records and PNG metadata."""
        return asdict(self)

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> "AttentionGuidance":
        """The guidance that `describe` described.

        Args:
            description: Plain values; what is missing takes its default.

        Raises:
            ArgumentError: There is no such setting, or it is out of range.
        """
        if not isinstance(description, Mapping):
            message = f"a description is a dictionary, but this is {description!r}"
            raise ArgumentError(message)
        given = dict(description)
        try:
            salience = Salience(**given.pop("salience", {}))
            return cls(salience=salience, **given)
        except TypeError as error:
            message = f"unknown setting of the guidance: {error}"
            raise ArgumentError(message) from error
