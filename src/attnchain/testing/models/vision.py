"""Tiny vision models of transformers, timm and open_clip."""

from typing import Any

from attnchain.testing.models.tiny import PICTURE, TinyModel, picture, tokens

SQUARE = (2, 3, 32, 32)
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}
TIMM_SIZES: dict[str, Any] = {"embed_dim": 16, "depth": 2, "num_heads": 2}


def _transformers(
    name: str, shape: tuple[int, ...] = PICTURE, **options: Any
) -> TinyModel:
    """A model of transformers from its configuration; they are named alike."""
    import transformers

    stem = name.removesuffix("Model")
    config = getattr(transformers, f"{stem}Config")(**SIZES | options)
    return TinyModel.of(
        getattr(transformers, name)(config), pixel_values=picture(shape)
    )


def vit() -> TinyModel:
    """Returns a transformers ViT."""
    return _transformers("ViTModel", SQUARE)


def dinov2() -> TinyModel:
    """Returns a transformers DINOv2 for a picture that is not square."""
    return _transformers("Dinov2Model")


def dinov2_with_registers() -> TinyModel:
    """Returns a transformers DINOv2 with four registers."""
    return _transformers("Dinov2WithRegistersModel", num_register_tokens=4)


def dinov3() -> TinyModel:
    """Returns a transformers DINOv3 with four registers and rotary embedding."""
    return _transformers("DINOv3ViTModel", num_register_tokens=4)


def deit() -> TinyModel:
    """Returns a transformers DeiT with a class and a distillation token."""
    return _transformers("DeiTModel", SQUARE)


def clip_vision() -> TinyModel:
    """Returns the picture side of a transformers CLIP."""
    return _transformers("CLIPVisionModel", SQUARE)


def siglip_vision() -> TinyModel:
    """Returns the picture side of a transformers SigLIP, without its pooling head."""
    return _transformers("SiglipVisionModel", SQUARE, vision_use_head=False)


def swin() -> TinyModel:
    """Returns a transformers Swin with shifted windows and padding."""
    from transformers import SwinConfig, SwinModel

    config = SwinConfig(
        image_size=32,
        patch_size=2,
        embed_dim=8,
        depths=[2, 2],
        num_heads=[2, 2],
        window_size=4,
    )
    return TinyModel.of(SwinModel(config), pixel_values=picture((2, 3, 32, 44)))


def _timm(name: str, **options: Any) -> TinyModel:
    import timm

    sizes = {"img_size": PICTURE[-2:], "patch_size": 8, **TIMM_SIZES}
    return TinyModel.of(timm.create_model(name, **sizes | options), picture())


def timm_vit() -> TinyModel:
    """Returns a timm ViT with a class token and four registers."""
    return _timm("vit_small_patch14_reg4_dinov2")


def timm_deit() -> TinyModel:
    """Returns a timm DeiT with a class and a distillation token."""
    return _timm("deit_tiny_distilled_patch16_224")


def timm_eva() -> TinyModel:
    """Returns a timm EVA-02 with rotary embedding."""
    return _timm("eva02_tiny_patch14_224")


def timm_swin() -> TinyModel:
    """Returns a timm Swin, which computes attention by hand unless told otherwise."""
    import timm

    model = timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=(32, 48),
        embed_dim=8,
        depths=(2,),
        num_heads=(2,),
        window_size=4,
    )
    return TinyModel.of(model, picture())


def open_clip() -> TinyModel:
    """Returns an open_clip model with both sides."""
    from open_clip.model import CLIP

    vision: Any = {
        "layers": 2,
        "width": 16,
        "head_width": 8,
        "patch_size": 8,
        "image_size": PICTURE[-2:],
    }
    text: Any = {
        "context_length": 7,
        "vocab_size": 50,
        "width": 16,
        "heads": 2,
        "layers": 2,
    }
    return TinyModel.of(CLIP(16, vision, text), picture(), tokens())
