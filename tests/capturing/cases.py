"""Every supported family: a tiny model, its attention computed otherwise, its layout.

The support table in docs/support.md is made from this list, by running it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from tests.capturing import families, references, zoo

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
BOTH = (WORDS, CAPTION)
UNET = (TokenGrid(8, 12), TokenGrid(4, 6))
SOFTMAX = references.eager_softmaxes


def _view(n, picture, places):
    """A picture among n tokens, from a table of the places of its patches."""
    flat = [place for row in places for place in row]
    return TokenGrid(
        len(places),
        len(places[0]),
        prefix=min(flat),
        suffix=n - min(flat) - len(flat),
        places=tuple(flat),
        picture=picture,
    )


def _views(n, *tables):
    """Several pictures, each with its number and the places of its patches."""
    first, *more = (_view(n, picture, places) for picture, places in tables)
    return replace(first, more=tuple(more))


def _table(start, rows, columns, step=None):
    """Places of rows of patches, the rows so many tokens apart."""
    begins = range(start, start + rows * (step or columns), step or columns)
    return [range(begin, begin + columns) for begin in begins]


NEXT = _views(59, (0, _table(20, 4, 8, step=9)), (0, _table(4, 4, 4)))
TAGGED = _views(
    63,
    (
        0,
        (
            (6, 7, 12, 13, 18, 19),
            (8, 9, 14, 15, 20, 21),
            (25, 26, 31, 32, 37, 38),
            (27, 28, 33, 34, 39, 40),
        ),
    ),
    (0, _table(45, 2, 2)),
    (1, _table(55, 2, 2)),
)


def _in_squares():
    """4 x 6 patches, two by two."""
    order = torch.arange(24).view(2, 3, 2, 2).transpose(1, 2).flatten().tolist()
    return TokenGrid(4, 6, places=tuple(order))


def _qwen(number, name):
    grids = (_in_squares(), _views(15, (0, _table(5, 2, 3))))
    build = partial(families.qwen, number)
    return Case("transformers", name, build, SOFTMAX, grids)


TEXTS = [
    Case("transformers", name, build, EAGER, (WORDS,))
    for name, build in (
        ("GPT-2", families.gpt2),
        ("Mistral", families.mistral),
        ("Qwen2", families.qwen2),
        ("Qwen3", families.qwen3),
        ("Gemma", families.gemma),
        ("Gemma 3, text", families.gemma3),
        ("RoBERTa", families.roberta),
        ("ModernBERT", families.modernbert),
    )
]

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
    *TEXTS,
    Case("transformers", "Gemma 2", families.gemma2, SOFTMAX, (WORDS,)),
    Case("transformers", "T5", lambda: families.two_sided(zoo.t5()), EAGER, BOTH),
    Case("transformers", "BART", lambda: families.two_sided(zoo.bart()), EAGER, BOTH),
    Case("transformers", "BEiT", families.beit, EAGER, (SQUARE,)),
    Case(
        "transformers",
        "SAM vision",
        families.sam,
        SOFTMAX,
        (TokenGrid(4, 4, windows=(2, 2), size=(6, 6)), TokenGrid(6, 6)),
    ),
    Case(
        "transformers",
        "VideoMAE",
        families.videomae,
        EAGER,
        (TokenGrid(4, 4, frames=3),),
    ),
    Case("transformers", "AST", families.ast, EAGER, (TokenGrid(5, 6, prefix=2),)),
    Case(
        "transformers",
        "LLaVA",
        families.llava,
        SOFTMAX,
        (SQUARE, _views(42, (0, _table(4, 4, 4)), (1, _table(23, 4, 4)))),
    ),
    Case("transformers", "LLaVA-NeXT", families.llava_next, SOFTMAX, (SQUARE, NEXT)),
    Case(
        "transformers",
        "PaliGemma",
        families.paligemma,
        SOFTMAX,
        (TokenGrid(4, 4), _views(21, (0, _table(0, 4, 4)))),
    ),
    Case(
        "transformers",
        "Gemma 3",
        families.gemma3_seeing,
        SOFTMAX,
        (TokenGrid(4, 4), _views(11, (0, _table(4, 2, 2)))),
    ),
    _qwen("2", "Qwen2-VL"),
    Case(
        "transformers",
        "Qwen2.5-VL",
        lambda: families.qwen("2_5"),
        SOFTMAX,
    ),
    _qwen("3", "Qwen3-VL"),
    Case(
        "transformers", "Idefics 3", families.tagged, SOFTMAX, (TokenGrid(4, 4), TAGGED)
    ),
    Case(
        "transformers",
        "InternVL",
        families.internvl,
        SOFTMAX,
        (SQUARE, _views(22, (0, _table(5, 2, 2)), (1, _table(14, 2, 2)))),
    ),
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
