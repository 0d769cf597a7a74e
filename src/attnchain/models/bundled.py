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
        return own_path(self.name.replace("-", "_"), of=self.name)


def own_path(place: str, *, of: str) -> Path:
    """Return where a file or folder that is part of this package lies.

    Args:
        place: Its path from this folder.
        of: The model it belongs to.

    Raises:
        ModelNotFoundError: This installation has it not.
    """
    path = Path(str(files("attnchain.models").joinpath(place)))
    if not path.exists():
        message = (
            f"the files of {of!r} are missing from this installation ({path}): install "
            "attnchain again"
        )
        raise ModelNotFoundError(message)
    return path


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
