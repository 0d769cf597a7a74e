"""Every supported family: a tiny model, its attention computed otherwise, its layout.

The support table in docs/support.md is made from this list, by running it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tests.capturing import references

from attnchain.capturing import TokenGrid
from attnchain.testing.models import TinyModel, diffusion, text, vision

PICTURE = TokenGrid(4, 6)
SQUARE = TokenGrid(4, 4, prefix=1)
WORDS = TokenGrid.of_text(7)
CAPTION = TokenGrid.of_text(5)


@dataclass(frozen=True)
class Case:
    """A family of models.

    Attributes:
        library: Where the model comes from.
        family: Its name.
        build: Makes a tiny one.
        reference: Computes its attention without attnchain.
        grids: Query grids expected, in order of appearance; None where unknown.
        fused: Whether outputs stay the same to the last bit, as they do where the
            model calls fused attention already.
    """

    library: str
    family: str
    build: Callable[[], TinyModel]
    reference: Callable[[TinyModel], list]
    grids: tuple[TokenGrid, ...] = ()
    fused: bool = True


def _prefixed(prefix):
    return (TokenGrid(4, 6, prefix=prefix),)


EAGER = references.eager_output
PROCESSOR = references.eager_processor
TIMM = references.unfused_timm
UNET = (TokenGrid(8, 12), TokenGrid(4, 6))

CASES = (
    Case("transformers", "ViT", vision.vit, EAGER, (SQUARE,)),
    Case("transformers", "DINOv2", vision.dinov2, EAGER, _prefixed(1)),
    Case(
        "transformers",
        "DINOv2 with registers",
        vision.dinov2_with_registers,
        EAGER,
        _prefixed(5),
    ),
    Case("transformers", "DINOv3", vision.dinov3, EAGER, _prefixed(5)),
    Case("transformers", "DeiT", vision.deit, EAGER, (TokenGrid(4, 4, prefix=2),)),
    Case("transformers", "CLIP vision", vision.clip_vision, EAGER, (SQUARE,)),
    Case("transformers", "CLIP text", text.clip_text, EAGER, (WORDS,)),
    Case(
        "transformers", "SigLIP vision", vision.siglip_vision, EAGER, (TokenGrid(4, 4),)
    ),
    Case("transformers", "SigLIP text", text.siglip_text, EAGER, (WORDS,)),
    Case(
        "transformers",
        "Swin",
        vision.swin,
        references.eager_modules,
        (
            TokenGrid(4, 4, windows=(4, 6), size=(16, 22)),
            TokenGrid(4, 4, windows=(4, 6), size=(16, 22), shift=(2, 2)),
            TokenGrid(4, 4, windows=(2, 3), size=(8, 11)),
            TokenGrid(4, 4, windows=(2, 3), size=(8, 11), shift=(2, 2)),
        ),
    ),
    Case("transformers", "BERT", text.bert, EAGER, (WORDS,)),
    Case("transformers", "Llama", text.llama, EAGER, (WORDS,)),
    Case("transformers", "Llama, padded", text.llama_padded, EAGER, (WORDS,)),
    Case("transformers", "T5 encoder", text.t5_encoder, EAGER, (WORDS,)),
    Case("transformers", "Whisper", text.whisper, EAGER, (TokenGrid(1, 20), WORDS)),
    Case("timm", "ViT", vision.timm_vit, TIMM, _prefixed(5)),
    Case("timm", "DeiT, distilled", vision.timm_deit, TIMM, _prefixed(2)),
    Case("timm", "EVA-02", vision.timm_eva, TIMM, _prefixed(1)),
    Case(
        "timm",
        "Swin",
        vision.timm_swin,
        TIMM,
        (
            TokenGrid(4, 4, windows=(2, 3), size=(8, 12)),
            TokenGrid(4, 4, windows=(2, 3), size=(8, 12), shift=(2, 2)),
        ),
        fused=False,
    ),
    Case(
        "open_clip",
        "CLIP, both sides",
        vision.open_clip,
        references.torch_weights,
        (TokenGrid(4, 6, prefix=1), WORDS),
        fused=False,
    ),
    Case("diffusers", "DDPM UNet", diffusion.ddpm_unet, PROCESSOR, (PICTURE,)),
    Case("diffusers", "Stable Diffusion 1 UNet", diffusion.sd_unet, PROCESSOR, UNET),
    Case("diffusers", "SDXL UNet", diffusion.sdxl_unet, PROCESSOR, UNET),
    Case(
        "diffusers",
        "Stable Diffusion 3.5",
        diffusion.sd3_transformer,
        references.joint_projections,
        (TokenGrid(4, 6, suffix=5, text=range(24, 29)), PICTURE),
    ),
    Case(
        "diffusers",
        "FLUX.1, dual and single",
        diffusion.flux_transformer,
        references.joint_projections,
        (TokenGrid(4, 6, prefix=5, text=range(5)),),
    ),
    Case("diffusers", "DiT", diffusion.dit_transformer, PROCESSOR, (TokenGrid(4, 4),)),
    Case("diffusers", "PixArt", diffusion.pixart_transformer, PROCESSOR, (PICTURE,)),
    Case(
        "torch",
        "nn.TransformerEncoder",
        text.torch_encoder,
        references.torch_weights,
        fused=False,
    ),
    Case(
        "torch",
        "any module with scaled_dot_product_attention",
        text.raw_attention,
        references.own_projections,
    ),
)

IDS = [f"{case.library} {case.family}" for case in CASES]
