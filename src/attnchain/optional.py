"""Optional packages: imported when a feature first needs them, only through here."""

import sys
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Final

from attnchain.errors import MissingExtraError

_ARGUMENTS: Final = "(Tensor dets, Tensor scores, float iou_threshold)"
_DECLARED: Final[list[Any]] = []
"""Kept, because operators end with the library that declared them."""


def require(module: str, *, extra: str, feature: str) -> ModuleType:
    """Import a module of an optional package, or say how to install it.

    Args:
        module: Dotted name of the module.
        extra: The extra of this package that installs it.
        feature: What needs it, as the subject of a sentence.

    Returns:
        The imported module.

    Raises:
        MissingExtraError: The package is not installed, or its import fails.

    Example:
        >>> require("math", extra="all", feature="counting").sqrt(4.0)
        2.0
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{feature} needs {error.name or module}, which is not installed: "
            f'pip install "attnchain[{extra}]"'
        ) from error
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise MissingExtraError(
            f"{feature} needs {module}, which is installed but does not import "
            f"({reason}); repair that package, or reinstall it: "
            f'pip install --force-reinstall "attnchain[{extra}]"'
        ) from error


def repair_torchvision() -> None:
    """Let a torchvision that was built for another torch be imported, when it is.

    Nothing happens, and torch is not loaded, before something looks for torchvision.
    """
    if "torchvision" not in sys.modules:
        sys.meta_path.insert(0, _BeforeTorchvision())


class _BeforeTorchvision:
    """Finds no module, but sees which is looked for."""

    def find_spec(
        self, name: str, _path: object = None, _target: object = None
    ) -> None:
        """Declares the missing operators before torchvision is found."""
        if name == "torchvision" and self in sys.meta_path:
            sys.meta_path.remove(self)
            declare_torchvision_operators()


def declare_torchvision_operators() -> None:
    """Declare the operators of a torchvision that was built for another torch.

    pip brings a CUDA build of torchvision beside a CPU torch. Its library of operators
    does not load, and describing the missing ones ends its import, and with it that
    of timm, open_clip and the models of transformers. Declared here without kernels,
    they let the import pass; a call of one still raises NotImplementedError.

    Nothing is changed where torchvision is absent, imported already, or whole.

    Cost:
        One attempt to load that library; torchvision itself is not imported.
    """
    if _DECLARED:
        return
    import torch

    package = find_spec("torchvision")
    folders = package.submodule_search_locations if package else None
    library = PathFinder.find_spec("_C", folders) if folders else None
    if library is None or library.origin is None:
        return
    try:
        torch.ops.load_library(library.origin)
    except OSError:
        _DECLARED.append(torch.library.Library("torchvision", "FRAGMENT"))
        for name in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, name):
                _DECLARED[0].define(f"{name}{_ARGUMENTS} -> Tensor")
