"""Whisper tiny.en out of a CTranslate2 file, under the names of transformers."""

import struct

import numpy as np
import torch

DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}


def read_variables(path):
    """The named arrays of a CTranslate2 `model.bin`, format version 6."""
    data, place = path.read_bytes(), 0

    def take(form):
        nonlocal place
        values = struct.unpack_from(f"<{form}", data, place)
        place += struct.calcsize(f"<{form}")
        return values

    def text():
        (length,) = take("H")
        return take(f"{length}s")[0].rstrip(b"\0").decode()

    assert take("I") == (6,)
    text()
    _, count = take("II")
    arrays = {}
    for _ in range(count):
        name = text()
        (rank,) = take("B")
        shape = take(f"{rank}I")
        kind, size = take("BI")
        array = np.frombuffer(take(f"{size}s")[0], DTYPES[kind]).reshape(shape)
        arrays[name] = torch.tensor(array.astype(np.float32))
    return arrays


def projections(arrays, source, target, names):
    """Weights and biases of stacked projections; keys have no bias."""
    state = {}
    weights = arrays[f"{source}/weight"].chunk(len(names))
    biases = arrays[f"{source}/bias"].chunk(len(names))
    for name, weight, bias in zip(names, weights, biases, strict=True):
        state[f"{target}.{name}.weight"] = weight
        if name != "k_proj":
            state[f"{target}.{name}.bias"] = bias
    return state


def pair(arrays, source, target):
    """A layer norm, linear layer or convolution: weight and bias."""
    norm = f"{source}/gamma" in arrays
    weight, bias = ("gamma", "beta") if norm else ("weight", "bias")
    return {
        f"{target}.weight": arrays[f"{source}/{weight}"],
        f"{target}.bias": arrays[f"{source}/{bias}"],
    }


def attention(arrays, source, target, *, cross=False):
    """One attention block with its norm."""
    norm = "encoder_attn_layer_norm" if cross else "self_attn_layer_norm"
    inner = f"{target}.{'encoder_attn' if cross else 'self_attn'}"
    parts = (
        [["q_proj"], ["k_proj", "v_proj"]]
        if cross
        else [["q_proj", "k_proj", "v_proj"]]
    )
    state = pair(arrays, f"{source}/layer_norm", f"{target}.{norm}")
    for number, names in enumerate([*parts, ["out_proj"]]):
        state |= projections(arrays, f"{source}/linear_{number}", inner, names)
    return state


def state_dict(arrays):
    """All weights of a WhisperModel."""
    state = {}
    for side, layers in (("encoder", 4), ("decoder", 4)):
        state[f"{side}.embed_positions.weight"] = arrays[
            f"{side}/position_encodings/encodings"
        ]
        state |= pair(arrays, f"{side}/layer_norm", f"{side}.layer_norm")
        for i in range(layers):
            source, target = f"{side}/layer_{i}", f"{side}.layers.{i}"
            state |= attention(arrays, f"{source}/self_attention", target)
            if side == "decoder":
                state |= attention(arrays, f"{source}/attention", target, cross=True)
            state |= pair(
                arrays, f"{source}/ffn/layer_norm", f"{target}.final_layer_norm"
            )
            state |= pair(arrays, f"{source}/ffn/linear_0", f"{target}.fc1")
            state |= pair(arrays, f"{source}/ffn/linear_1", f"{target}.fc2")
    state["decoder.embed_tokens.weight"] = arrays["decoder/embeddings/weight"]
    for i in (1, 2):
        state |= pair(arrays, f"encoder/conv{i}", f"encoder.conv{i}")
    return state


def load(path):
    """The model, every weight in place."""
    from transformers import WhisperConfig, WhisperModel

    config = WhisperConfig(
        vocab_size=51864,
        d_model=384,
        encoder_layers=4,
        decoder_layers=4,
        encoder_attention_heads=6,
        decoder_attention_heads=6,
        encoder_ffn_dim=1536,
        decoder_ffn_dim=1536,
        use_cache=False,
        bos_token_id=50256,
        eos_token_id=50256,
        pad_token_id=50256,
        decoder_start_token_id=50257,
    )
    model = WhisperModel(config).eval()
    model.load_state_dict(state_dict(read_variables(path)), strict=True)
    return model
