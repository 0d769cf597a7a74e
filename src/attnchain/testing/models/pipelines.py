"""Tiny diffusers pipelines with random weights, text encoders and tokenizers."""

from typing import Any

from torch import nn

from attnchain.testing.models import diffusion
from attnchain.testing.models.tiny import TinyModel
from attnchain.testing.models.tokenizers import LENGTH, clip_tokenizer, t5_tokenizer

CLIP_WIDTH, T5_WIDTH = 16, 32
VOCABULARY = 64


Text = tuple[Any, Any]
"""A text encoder and its tokenizer."""


def _pipeline(name: str, *texts: Text, **parts: Any) -> Any:
    """A pipeline without a progress bar; several texts are numbered from the second."""
    for number, (encoder, tokenizer) in enumerate(texts, start=1):
        suffix = f"_{number}" if number > 1 else ""
        parts |= {f"text_encoder{suffix}": encoder, f"tokenizer{suffix}": tokenizer}
    pipeline = diffusion.build(name, **parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _of_transformer(
    name: str, transformer: TinyModel, scheduler: Any, *texts: Text
) -> Any:
    parts = {"transformer": transformer.model, "vae": _decoder()}
    return _pipeline(name, *texts, **parts, scheduler=scheduler)


def _random(model: nn.Module) -> Any:
    return TinyModel.of(model).model


def _decoder() -> Any:
    """An autoencoder that also draws; that of FLUX and SD3 shifts its latents."""
    sizes = {"block_out_channels": (4,), "latent_channels": 4, "norm_num_groups": 2}
    return _random(diffusion.build("AutoencoderKL", **sizes, shift_factor=0.1))


def _flow() -> Any:
    return diffusion.build("FlowMatchEulerDiscreteScheduler")


def _clip(*, projection: bool = False) -> Text:
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
    return _random(kind(config)), clip_tokenizer()


def _t5() -> Text:
    from transformers import T5Config, T5EncoderModel

    widths: dict[str, Any] = {"d_model": T5_WIDTH, "d_kv": 8, "d_ff": 32}
    config = T5Config(vocab_size=VOCABULARY, num_layers=1, num_heads=2, **widths)
    return _random(T5EncoderModel(config)), t5_tokenizer()


def _gemma() -> Text:
    from transformers import Gemma2Config, Gemma2Model

    widths: dict[str, Any] = {"hidden_size": T5_WIDTH, "intermediate_size": 32}
    heads: dict[str, Any] = {
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
    }
    config = Gemma2Config(vocab_size=VOCABULARY, num_hidden_layers=2, **widths, **heads)
    return _random(Gemma2Model(config)), t5_tokenizer()


def stable_diffusion() -> Any:
    """Returns Stable Diffusion 1: UNet, CLIP, batched guidance."""
    return _pipeline(
        "StableDiffusionPipeline",
        _clip(),
        unet=diffusion.sd_unet(cross_attention_dim=CLIP_WIDTH).model,
        vae=_decoder(),
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
    scheduler = diffusion.build("EulerDiscreteScheduler")
    parts = {"unet": unet, "vae": _decoder(), "scheduler": scheduler}
    texts = _clip(), _clip(projection=True)
    name = "StableDiffusionXLPipeline"
    return _pipeline(name, *texts, **parts, add_watermarker=False)


def stable_diffusion_3() -> Any:
    """Returns Stable Diffusion 3.5: joint attention over latents, CLIP and T5."""
    transformer = diffusion.sd3_transformer(
        joint_attention_dim=T5_WIDTH, pooled_projection_dim=2 * CLIP_WIDTH
    )
    texts = _clip(projection=True), _clip(projection=True), _t5()
    return _of_transformer("StableDiffusion3Pipeline", transformer, _flow(), *texts)


def flux() -> Any:
    """Returns FLUX.1: joint attention over T5 and latents, guidance in two passes."""
    transformer = diffusion.flux_transformer(
        in_channels=16,
        joint_attention_dim=T5_WIDTH,
        pooled_projection_dim=CLIP_WIDTH,
    )
    return _of_transformer("FluxPipeline", transformer, _flow(), _clip(), _t5())


def dit() -> Any:
    """Returns DiT: class numbers instead of text, batched guidance."""
    transformer = diffusion.dit_transformer(num_embeds_ada_norm=1000)
    scheduler = diffusion.build("DDIMScheduler", clip_sample=False)
    return _of_transformer("DiTPipeline", transformer, scheduler)


def pixart() -> Any:
    """Returns PixArt-alpha: self-attention, cross-attention to T5, batched guidance."""
    transformer = diffusion.pixart_transformer(caption_channels=T5_WIDTH)
    scheduler = diffusion.build("DPMSolverMultistepScheduler")
    return _of_transformer("PixArtAlphaPipeline", transformer, scheduler, _t5())


def pixart_sigma() -> Any:
    """Returns PixArt-sigma: the transformer of alpha, longer texts."""
    transformer = diffusion.pixart_transformer(caption_channels=T5_WIDTH)
    scheduler = diffusion.build("DPMSolverMultistepScheduler")
    return _of_transformer("PixArtSigmaPipeline", transformer, scheduler, _t5())


def lumina2() -> Any:
    """Returns Lumina 2: one sequence of Gemma's text and latents, two passes."""
    transformer = diffusion.lumina2_transformer(cap_feat_dim=T5_WIDTH)
    return _of_transformer("Lumina2Pipeline", transformer, _flow(), _gemma())


def ddpm() -> Any:
    """Returns DDPM: a UNet and nothing else."""
    scheduler = diffusion.build("DDPMScheduler")
    return _pipeline(
        "DDPMPipeline", unet=diffusion.ddpm_unet().model, scheduler=scheduler
    )
