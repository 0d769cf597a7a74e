"""torchvision, where it needs the help that importing attnchain gives it."""

from types import ModuleType

from attnchain.optional import require


def importable_torchvision() -> ModuleType:
    """Returns torchvision, which imports even where it was built for another torch.

    Raises:
        MissingExtraError: torchvision is not installed, or is broken in another way.
    """
    return require("torchvision", extra="timm", feature="importable_torchvision")
