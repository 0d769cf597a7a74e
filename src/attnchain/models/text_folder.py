"""Language models of the transformers library, from a folder of safetensors."""

from pathlib import Path
from typing import Any

from attnchain.errors import UnsupportedModelError, memory_ran_out
from attnchain.models.from_transformers import DAMAGE, read_config, with_weights
from attnchain.models.hub import not_found
from attnchain.models.loaded_text import LoadedSpeech, LoadedText
from attnchain.models.quietly import quiet
from attnchain.optional import require


def holds_text(folder: Path) -> bool:
    """Whether a model folder has a tokenizer beside its weights."""
    names = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json")
    return any((folder / name).is_file() for name in names)


def load_text_folder(
    folder: Path, *, name: str, note: str
) -> LoadedText | LoadedSpeech:
    """Load a language model, or Whisper, with its tokenizer.

    Its class is the one that its configuration names.

    Args:
        folder: Holds config.json, safetensors and the files of a tokenizer.
        name: The name shown to users.
        note: The sentence shown with it.

    Returns:
        The model on the CPU, in float32 and evaluation mode.

    Raises:
        UnsupportedModelError: The configuration names no class that transformers has.
        ModelNotFoundError: The files are damaged, or weights are missing.
        MissingExtraError: transformers is absent, or cannot be used in this Python.
    """
    config = read_config(folder)
    named = [str(kind) for kind in config.get("architectures") or ()]
    if len(named) != 1:
        raise UnsupportedModelError(
            f"config.json of {name!r} must name one class under architectures, but "
            f"names {', '.join(named) or 'none'}; load it with transformers and give "
            "the model to capture"
        )
    transformers = require("transformers", extra="text", feature=f"the model {name!r}")
    if not hasattr(transformers, named[0]):
        raise UnsupportedModelError(
            f"the class {named[0]} of {name!r} is not in transformers "
            f"{transformers.__version__}; code of a model folder is never run"
        )
    model = with_weights(folder, named[0], name=name)
    tokenizer = _tokenizer(folder, name)
    if config.get("model_type") == "whisper":
        from transformers import WhisperFeatureExtractor

        mels = config.get("num_mel_bins", 80)
        hears = WhisperFeatureExtractor(feature_size=mels)
        return LoadedSpeech(name, note, model, tokenizer, hears)
    return LoadedText(name, note, model, tokenizer)


def _tokenizer(folder: Path, name: str) -> Any:
    import transformers

    with quiet(transformers.utils.logging):
        try:
            return transformers.AutoTokenizer.from_pretrained(
                folder, local_files_only=True
            )
        except DAMAGE as error:
            if memory_ran_out(error):
                raise
            raise not_found(name, error) from error
