"""Tiny denoisers of diffusers, each with latents, text and a time step."""

from typing import Any

import torch

from attnchain.testing.models.tiny import TinyModel, picture

LATENTS = (2, 4, 8, 12)
TEXT = (2, 5, 12)
UNET: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
TRANSFORMER: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "in_channels": 4,
    "num_layers": 2,
}
OF_LATENTS = TRANSFORMER | {"sample_size": 8, "patch_size": 2}
OF_NOISE = OF_LATENTS | {"out_channels": 8}


def build(name: str, **options: Any) -> Any:
    """Returns an object of diffusers, from the name of its class and its options."""
    import diffusers

    return getattr(diffusers, name)(**options)


def ddpm_unet() -> TinyModel:
    """Returns the UNet of DDPM, with self-attention at the lower resolution."""
    model = build(
        "UNet2DModel",
        **UNET,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    return TinyModel.of(model, picture((2, 3, 8, 12)), 1)


def sd_unet(**options: Any) -> TinyModel:
    """Returns the UNet of Stable Diffusion 1: self- and cross-attention, two levels."""
    own = {
        "attention_head_dim": 2,
        "cross_attention_dim": 12,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    }
    model = build("UNet2DConditionModel", **UNET | own | options)
    return TinyModel.of(model, picture(LATENTS), 1, picture(TEXT))


def sdxl_unet(**options: Any) -> TinyModel:
    """Returns the UNet of SDXL: several blocks in a level, added conditions."""
    tiny = sd_unet(
        **{
            "transformer_layers_per_block": (1, 2),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 4,
            "projection_class_embeddings_input_dim": 6 * 4 + 12,
        }
        | options
    )
    added = {"text_embeds": picture((2, 12)), "time_ids": torch.ones(2, 6)}
    return TinyModel(tiny.model, tiny.args, {"added_cond_kwargs": added})


def sd3_transformer(**options: Any) -> TinyModel:
    """Returns the transformer of SD 3.5: joint attention, one block with self too."""
    own = {
        "out_channels": 4,
        "joint_attention_dim": 12,
        "caption_projection_dim": 16,
        "pooled_projection_dim": 12,
        "pos_embed_max_size": 8,
        "dual_attention_layers": (0,),
        "qk_norm": "rms_norm",
    }
    model = build("SD3Transformer2DModel", **OF_LATENTS | own | options)
    step = torch.tensor([1, 1])
    return TinyModel.of(model, picture(LATENTS), picture(TEXT), picture((2, 12)), step)


def flux_transformer(**options: Any) -> TinyModel:
    """Returns the transformer of FLUX.1: two-stream and single-stream blocks."""
    own = {"num_single_layers": 2, "patch_size": 1, "axes_dims_rope": (2, 2, 4)}
    own |= {"joint_attention_dim": 12, "pooled_projection_dim": 12}
    model = build("FluxTransformer2DModel", **TRANSFORMER | own | options)
    rows, columns = 4, 6
    places = torch.zeros(rows, columns, 3)
    places[..., 1] += torch.arange(rows)[:, None]
    places[..., 2] += torch.arange(columns)
    return TinyModel.of(
        model,
        hidden_states=picture((2, rows * columns, 4)),
        encoder_hidden_states=picture(TEXT),
        pooled_projections=picture((2, 12)),
        timestep=torch.tensor([1.0, 1.0]),
        img_ids=places.reshape(-1, 3),
        txt_ids=torch.zeros(TEXT[1], 3),
    )


def dit_transformer(**options: Any) -> TinyModel:
    """Returns a DiT, guided by class numbers."""
    own = {"num_embeds_ada_norm": 10, "norm_num_groups": 4}
    model = build("DiTTransformer2DModel", **OF_NOISE | own | options)
    step, classes = torch.tensor([1, 1]), torch.tensor([1, 2])
    return TinyModel.of(model, picture((2, 4, 8, 8)), step, classes)


def pixart_transformer(**options: Any) -> TinyModel:
    """Returns the transformer of PixArt: self-attention, then cross-attention."""
    own = {"caption_channels": 12, "cross_attention_dim": 16}
    model = build("PixArtTransformer2DModel", **OF_NOISE | own | options)
    mask = torch.ones(TEXT[:2])
    mask[1, -2:] = 0
    return TinyModel.of(
        model,
        picture(LATENTS),
        picture(TEXT),
        torch.tensor([1, 1]),
        encoder_attention_mask=mask,
    )


def lumina2_transformer(**options: Any) -> TinyModel:
    """Returns the transformer of Lumina 2: each stream alone, then one sequence."""
    own = {"num_refiner_layers": 1, "num_kv_heads": 1, "hidden_size": 24}
    own |= {"num_layers": 2, "num_attention_heads": 2, "multiple_of": 8}
    own |= {"axes_dim_rope": (4, 4, 4), "axes_lens": (64, 16, 16)}
    sizes = {"sample_size": 8, "in_channels": 4, "cap_feat_dim": TEXT[-1]}
    model = build("Lumina2Transformer2DModel", **sizes | own | options)
    step, mask = torch.tensor([0.1, 0.1]), torch.ones(TEXT[:2], dtype=torch.int64)
    mask[:, -2:] = 0
    return TinyModel.of(model, picture(LATENTS), step, picture(TEXT), mask)
