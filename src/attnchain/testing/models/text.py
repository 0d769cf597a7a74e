"""Tiny models of text and speech, of transformers and of torch itself."""

from typing import Any

import torch
from torch import nn

from attnchain.testing.models.tiny import (
    VOCABULARY,
    TinyModel,
    padding,
    picture,
    tokens,
)

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "max_position_embeddings": 16,
}


def _transformers(name: str, **options: Any) -> TinyModel:
    import transformers

    stem = name.removesuffix("Model")
    config = getattr(transformers, f"{stem}Config")(**SIZES | options)
    return TinyModel.of(
        getattr(transformers, name)(config),
        input_ids=tokens(),
        attention_mask=padding(),
    )


def bert() -> TinyModel:
    """Returns a transformers BERT; one of two sequences is padded."""
    return _transformers("BertModel")


def clip_text() -> TinyModel:
    """Returns the text side of a transformers CLIP, which is causal."""
    return _transformers("CLIPTextModel", eos_token_id=2, bos_token_id=1)


def siglip_text() -> TinyModel:
    """Returns the text side of a transformers SigLIP."""
    padded = _transformers("SiglipTextModel")
    return TinyModel(padded.model, kwargs={"input_ids": tokens()})


def llama() -> TinyModel:
    """Returns a transformers Llama: causal, four query heads share two key heads."""
    padded = _transformers("LlamaModel", num_key_value_heads=2, use_cache=False)
    return TinyModel(padded.model, kwargs={"input_ids": tokens()})


def llama_padded() -> TinyModel:
    """Returns the same Llama with one padded sequence, so that a mask is used."""
    return _transformers("LlamaModel", num_key_value_heads=2, use_cache=False)


def t5_encoder() -> TinyModel:
    """Returns a transformers T5 encoder, whose position bias arrives as a mask."""
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2
    )
    model = T5EncoderModel(config)
    return TinyModel.of(model, input_ids=tokens(), attention_mask=padding())


def whisper() -> TinyModel:
    """Returns a transformers Whisper: encoder, causal decoder, cross-attention."""
    from transformers import WhisperConfig, WhisperModel

    config = WhisperConfig(
        vocab_size=VOCABULARY,
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_mel_bins=8,
        max_source_positions=20,
        max_target_positions=10,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        use_cache=False,
    )
    sound = picture((2, 8, 40))
    model = WhisperModel(config)
    return TinyModel.of(model, input_features=sound, decoder_input_ids=tokens())


def torch_encoder() -> TinyModel:
    """Returns torch's own encoder, with padding."""
    layer = nn.TransformerEncoderLayer(
        16, nhead=2, dim_feedforward=32, batch_first=True
    )
    model = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
    return TinyModel.of(model, picture((2, 7, 16)), src_key_padding_mask=padding() == 0)


class CausalBlock(nn.Module):
    """Attention written with torch's function, grouped queries, own scale, causal."""

    def __init__(self, width: int = 16, heads: int = 4, key_heads: int = 2) -> None:
        super().__init__()
        self.heads, self.key_heads = heads, key_heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width * key_heads // heads)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs attention over `(pictures, tokens, width)`."""
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        kv = self.kv(x).unflatten(-1, (2 * self.key_heads, -1)).transpose(1, 2)
        k, v = kv.chunk(2, dim=1)
        mixed = nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=0.7, enable_gqa=True
        )
        return mixed.transpose(1, 2).flatten(2)


def raw_attention() -> TinyModel:
    """Returns two modules that call torch's fused attention themselves."""
    model = nn.Sequential(CausalBlock(), CausalBlock())
    return TinyModel.of(model, picture((2, 7, 16)))
