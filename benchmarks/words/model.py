"""A small FLUX: joint attention over words and pixels, as a pipeline of diffusers."""

import argparse
from pathlib import Path
from typing import Any

import torch
from garments import COLOURS, DEFAULT_FOLDER, GROUNDS, NAMES, SIDE
from torch import nn

from attnchain import load
from attnchain.models.pixel_space import LENGTH, PixelAutoencoder, word_tokenizer
from attnchain.optional import require

WORDS = (*COLOURS, *NAMES, "on", *GROUNDS, ",", "a", "and")
TRANSFORMER: dict[str, Any] = {
    "in_channels": 12,
    "num_layers": 3,
    "num_single_layers": 3,
    "num_attention_heads": 4,
    "attention_head_dim": 16,
    "axes_dims_rope": (4, 6, 6),
    "joint_attention_dim": 64,
    "pooled_projection_dim": 8,
}
TEXT: dict[str, Any] = {
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 256,
    "num_layers": 2,
    "num_heads": 4,
    "dropout_rate": 0.0,
    "relative_attention_num_buckets": 16,
}
TOKENIZER = word_tokenizer(WORDS)


def build(name: str, **options: Any) -> Any:
    diffusers = require("diffusers", extra="diffusers", feature="the small FLUX")
    return getattr(diffusers, name)(**options)


def parts() -> dict[str, nn.Module]:
    """What is learned: the denoiser and the encoder of its prompts."""
    transformers = require("transformers", extra="text", feature="the small FLUX")
    text = transformers.T5EncoderModel(
        transformers.T5Config(vocab_size=len(TOKENIZER), **TEXT)
    )
    return {
        "transformer": build("FluxTransformer2DModel", **TRANSFORMER),
        "text": text,
    }


def token_numbers(prompts: list[str]) -> torch.Tensor:
    """Tokens (b, 16) of prompts."""
    options: dict[str, Any] = {"padding": "max_length", "max_length": LENGTH}
    return TOKENIZER(prompts, return_tensors="pt", **options).input_ids


def packed(latents: torch.Tensor) -> torch.Tensor:
    """Latents (b, c, h, w) as FLUX's tokens (b, hw / 4, 4c) of 2 x 2 pixels."""
    b, c, h, w = latents.shape
    tiles = latents.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return tiles.reshape(b, h * w // 4, 4 * c)


def places(side: int = SIDE // 2) -> torch.Tensor:
    """Row and column of every token (side * side, 3), as FLUX wants them."""
    grid = torch.zeros(side, side, 3)
    grid[..., 1] += torch.arange(side)[:, None]
    grid[..., 2] += torch.arange(side)
    return grid.reshape(-1, 3)


def assemble(learned: nn.ModuleDict) -> Any:
    """The pipeline of diffusers; CLIP's place is taken by one that says nothing."""
    transformers = require("transformers", extra="text", feature="the small FLUX")
    silent = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=len(TOKENIZER),
            hidden_size=TRANSFORMER["pooled_projection_dim"],
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            max_position_embeddings=LENGTH,
            eos_token_id=TOKENIZER.eos_token_id,
        )
    )
    for parameter in silent.parameters():
        nn.init.zeros_(parameter)
    return build(
        "FluxPipeline",
        scheduler=build("FlowMatchEulerDiscreteScheduler", shift=3.0),
        vae=PixelAutoencoder(),
        text_encoder=silent,
        tokenizer=TOKENIZER,
        text_encoder_2=learned["text"],
        tokenizer_2=TOKENIZER,
        transformer=learned["transformer"],
    )


def load_pipeline(source: str | Path) -> Any:
    """What `assemble` made, from its folder, or the one that comes with the package."""
    pipeline = load(str(source)).pipeline
    pipeline.default_sample_size = SIDE
    return pipeline


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with the folders of data and results, and the model."""
    parser = argparse.ArgumentParser(description=description.split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--model", default="garments-mmdit")
    parser.add_argument("--out", type=Path, default=Path("out/words"))
    return parser
