"""Optional packages: imported when a feature first needs them, only through here."""

from importlib import import_module
from types import ModuleType

from attnchain.errors import MissingExtraError


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
