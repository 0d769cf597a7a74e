"""Tiny diffusers pipelines with random weights, text encoders and tokenizers."""

from typing import Any

from torch import nn

from attnchain.testing.models import diffusion
from attnchain.testing.models.tiny import TinyModel
from attnchain.testing.models.tokenizers import LENGTH, clip_tokenizer, t5_tokenizer

CLIP_WIDTH, T5_WIDTH = 16, 32
VOCABULARY = 64


def _silent(name: str, **parts: Any) -> Any:
    """A pipeline without a progress bar."""
    pipeline = diffusion.build(name, **parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _random(model: nn.Module) -> Any:
    return TinyModel.of(model).model


def _decoder() -> Any:
    sizes = {"block_out_channels": (4,), "latent_channels": 4, "norm_num_groups": 2}
    return _random(diffusion.build("AutoencoderKL", **sizes))


def _clip(*, projection: bool = False) -> Any:
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTextModelWithProjection,
    )

    config = CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=CLIP_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=LENGTH,
        projection_dim=CLIP_WIDTH,
        eos_token_id=0,
        bos_token_id=1,
        pad_token_id=0,
    )
    kind = CLIPTextModelWithProjection if projection else CLIPTextModel
    return _random(kind(config))


def _t5() -> Any:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=T5_WIDTH,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
    )
    return _random(T5EncoderModel(config))


def stable_diffusion() -> Any:
    """Returns Stable Diffusion 1: UNet, CLIP, batched guidance."""
    unet = diffusion.sd_unet(cross_attention_dim=CLIP_WIDTH).model
    return _silent(
        "StableDiffusionPipeline",
        unet=unet,
        vae=_decoder(),
        text_encoder=_clip(),
        tokenizer=clip_tokenizer(),
        scheduler=diffusion.build("DDIMScheduler", clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_xl() -> Any:
    """Returns SDXL: UNet, two CLIPs, batched guidance."""
    unet = diffusion.sdxl_unet(
        cross_attention_dim=2 * CLIP_WIDTH,
        projection_class_embeddings_input_dim=6 * 4 + CLIP_WIDTH,
    ).model
    return _silent(
        "StableDiffusionXLPipeline",
        unet=unet,
        vae=_decoder(),
        text_encoder=_clip(),
        text_encoder_2=_clip(projection=True),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        scheduler=diffusion.build("EulerDiscreteScheduler"),
        add_watermarker=False,
    )


def stable_diffusion_3() -> Any:
    """Returns Stable Diffusion 3.5: joint attention over latents, CLIP and T5."""
    transformer = diffusion.sd3_transformer(
        joint_attention_dim=T5_WIDTH, pooled_projection_dim=2 * CLIP_WIDTH
    ).model
    return _silent(
        "StableDiffusion3Pipeline",
        transformer=transformer,
        vae=_decoder(),
        text_encoder=_clip(projection=True),
        text_encoder_2=_clip(projection=True),
        text_encoder_3=_t5(),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        tokenizer_3=t5_tokenizer(),
        scheduler=diffusion.build("FlowMatchEulerDiscreteScheduler"),
    )


def flux() -> Any:
    """Returns FLUX.1: joint attention over T5 and latents, guidance in two passes."""
    transformer = diffusion.flux_transformer(
        in_channels=16,
        joint_attention_dim=T5_WIDTH,
        pooled_projection_dim=CLIP_WIDTH,
    ).model
    return _silent(
        "FluxPipeline",
        transformer=transformer,
        vae=_decoder(),
        text_encoder=_clip(),
        text_encoder_2=_t5(),
        tokenizer=clip_tokenizer(),
        tokenizer_2=t5_tokenizer(),
        scheduler=diffusion.build("FlowMatchEulerDiscreteScheduler"),
    )


def dit() -> Any:
    """Returns DiT: class numbers instead of text, batched guidance."""
    transformer = diffusion.dit_transformer(num_embeds_ada_norm=1000).model
    return _silent(
        "DiTPipeline",
        transformer=transformer,
        vae=_decoder(),
        scheduler=diffusion.build("DDIMScheduler", clip_sample=False),
    )


def pixart() -> Any:
    """Returns PixArt-alpha: self-attention, cross-attention to T5, batched guidance."""
    transformer = diffusion.pixart_transformer(caption_channels=T5_WIDTH).model
    return _silent(
        "PixArtAlphaPipeline",
        transformer=transformer,
        vae=_decoder(),
        text_encoder=_t5(),
        tokenizer=t5_tokenizer(),
        scheduler=diffusion.build("DPMSolverMultistepScheduler"),
    )


def ddpm() -> Any:
    """Returns DDPM: a UNet and nothing else."""
    unet = diffusion.ddpm_unet().model
    return _silent(
        "DDPMPipeline", unet=unet, scheduler=diffusion.build("DDPMScheduler")
    )
