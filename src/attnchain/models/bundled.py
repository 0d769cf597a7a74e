"""Models that come inside this package: small ones, trained here."""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from attnchain.errors import ModelNotFoundError


@dataclass(frozen=True)
class Bundled:
    """A model whose files are part of this package.

    Attributes:
        name: What it is loaded by; its folder has the same name with underscores.
        note: One sentence on what the weights are.
        side: Height and width of the pictures it draws, in pixels.
    """

    name: str
    note: str
    side: int

    @property
    def folder(self) -> Path:
        """Where its files are.

        Raises:
            ModelNotFoundError: This installation has them not.
        """
        place = files("attnchain.models").joinpath(self.name.replace("-", "_"))
        folder = Path(str(place))
        if not folder.is_dir():
            message = (
                f"the files of {self.name!r} are missing from this installation "
                f"({folder}): install attnchain again"
            )
            raise ModelNotFoundError(message)
        return folder


GARMENTS = Bundled(
    name="garments-mmdit",
    note=(
        "A joint-attention diffusion transformer trained for attnchain "
        "(benchmarks/words) on composed pictures of Fashion-MNIST garments and "
        "colours; it knows nothing else."
    ),
    side=32,
)
BUNDLED = {GARMENTS.name: GARMENTS}
