"""Token layouts of the model families we know: an explicit table, no guessing.

A rule is given the running module that the table names, the kind of attention, and the
numbers of queries and keys. It reads grid sizes from the arguments of the running
module, or says what is missing. None means: ask an outer module.
"""

from collections.abc import Callable, Sequence
from typing import Any

from attnchain.capturing import picture_tokens
from attnchain.capturing.calls import RunningModule
from attnchain.capturing.grid import TokenGrid
from attnchain.capturing.sites import Kind
from attnchain.capturing.text_layouts import Rule, sequences, text_in
from attnchain.capturing.token_layout import UNKNOWN, Layout
from attnchain.capturing.window_layouts import (
    sam_windows,
    square_by_square,
    swin_windows,
    timm_windows,
)
from attnchain.errors import GridError


def find_layout(
    stack: Sequence[RunningModule], kind: Kind, n_queries: int, n_keys: int
) -> Layout:
    """Returns the layout given by the innermost running module that tells it."""
    try:
        for call in reversed(stack):
            rules = [RULES[family] for family in call.families if family in RULES]
            for rule in (*rules, text_in(stack)):
                layout = rule(call, kind, n_queries, n_keys)
                if layout is not None:
                    return layout
    except GridError as unknown:
        return Layout.of(str(unknown))
    if any(call.tensor("inputs_embeds") is not None for call in stack):
        return Layout.of("the model was run without a tensor 'input_ids'")
    return Layout()


def _patches(shape: Sequence[int], patch: int | Sequence[int]) -> tuple[int, int]:
    down, across = (patch, patch) if isinstance(patch, int) else patch
    return shape[-2] // down, shape[-1] // across


def _picture(
    argument: str, patch: Callable[[Any], Any], prefix: Callable[[Any], int]
) -> Rule:
    """A rule for one picture cut into patches, after some special tokens."""

    def rule(call: RunningModule, *_: Any) -> Layout:
        pixels = call.needed(argument)
        rows, columns = _patches(pixels.shape, patch(call.module))
        return Layout.of(TokenGrid(rows, columns, prefix=prefix(call.module)))

    return rule


def _clip(call: RunningModule, _: Kind, __: int, ___: int) -> Layout:
    """VideoMAE: patches of so many frames each, none left out."""
    pixels, config = call.needed("pixel_values"), call.module.config
    if call.argument("bool_masked_pos") is not None:
        return Layout.of("patches were left out by bool_masked_pos")
    rows, columns = _patches(pixels.shape, config.patch_size)
    frames = pixels.shape[1] // config.tubelet_size
    return Layout.of(TokenGrid(rows, columns, frames=frames))


def _of_own_size(call: RunningModule, _: Kind, n_queries: int, __: int) -> Layout:
    """SigLIP 2: patches row by row, then padding to the length of the batch."""
    sizes = call.needed("spatial_shapes")
    rows, columns = (int(side) for side in sizes[0])
    if bool((sizes != sizes[0]).any()):
        return Layout.of(
            "the pictures of the batch have different sizes; give the model those of "
            "one size at a time"
        )
    return Layout.of(TokenGrid(rows, columns, suffix=n_queries - rows * columns))


def _spectrogram(call: RunningModule, *_: Any) -> Layout:
    """AST: overlapping patches of frequency x time, after two special tokens."""
    sound, config = call.needed("input_values"), call.module.config
    n_frames, n_bands = sound.shape[-2:]
    rows = (n_bands - config.patch_size) // config.frequency_stride + 1
    columns = (n_frames - config.patch_size) // config.time_stride + 1
    return Layout.of(TokenGrid(rows, columns, prefix=2))


def _sam_prompts(
    call: RunningModule, kind: Kind, n_queries: int, n_keys: int
) -> Layout:
    """SAM's decoder: mask and prompt tokens look at the picture, and it at them."""
    prompts, picture = call.needed("point_embeddings"), call.needed("image_embeddings")
    (rows, columns), n_prompts = picture.shape[-2:], prompts.shape[-2]
    own = TokenGrid(0, 0, prefix=n_prompts)
    sides = {n_prompts: own, rows * columns: TokenGrid(rows, columns)}
    if kind == "cross" and len(sides) == 1:
        return Layout.of("there are as many prompt tokens as patches")
    if kind == "self":
        return Layout.of(own)
    return Layout(*(sides.get(n, UNKNOWN) for n in (n_queries, n_keys)))


def _frames(_call: RunningModule, _kind: Kind, n_queries: int, n_keys: int) -> Layout:
    """Audio: one row of frames."""
    return Layout(TokenGrid(1, n_queries), TokenGrid(1, n_keys))


def _whisper_decoder(
    _: RunningModule, kind: Kind, n_queries: int, n_keys: int
) -> Layout:
    text = TokenGrid.of_text(n_queries)
    if kind != "cross":
        return Layout(text, TokenGrid.of_text(n_keys))
    return Layout(text, TokenGrid(1, n_keys))


def _feature_map(call: RunningModule, kind: Kind, _: int, n_keys: int) -> Layout | None:
    """UNet: the module is given rows x columns; other keys are text."""
    features = call.tensor("hidden_states")
    if features is None or features.ndim != 4:
        return None
    rows, columns = features.shape[-2:]
    return _to_text(TokenGrid(rows, columns), kind, n_keys)


def _latents(call: RunningModule, kind: Kind, _: int, n_keys: int) -> Layout:
    """Diffusion transformer: patches of latents; cross-attention sees text."""
    latents = call.needed("hidden_states")
    rows, columns = _patches(latents.shape, call.module.config.patch_size)
    return _to_text(TokenGrid(rows, columns), kind, n_keys)


def _to_text(grid: TokenGrid, kind: Kind, n_keys: int) -> Layout:
    """One sequence, or cross-attention from it to text."""
    if kind != "cross":
        return Layout.of(grid)
    return Layout(grid, TokenGrid.of_text(n_keys))


def _video(call: RunningModule, kind: Kind, _: int, n_keys: int) -> Layout:
    """Wan: patches of the frames of a video; cross-attention sees text or picture."""
    latents, text = call.needed("hidden_states"), call.tensor("encoder_hidden_states")
    sizes = zip(latents.shape[-3:], call.module.config.patch_size, strict=True)
    frames, rows, columns = (size // patch for size, patch in sizes)
    grid = TokenGrid(rows, columns, frames=frames)
    if kind == "cross" and (text is None or text.shape[1] != n_keys):
        return Layout(grid, "these keys are not the text")
    return _to_text(grid, kind, n_keys)


def _latents_then_text(
    call: RunningModule, _: Kind, n_queries: int, n_keys: int
) -> Layout:
    """SD3: patches of latents, then text, in one sequence; some blocks see no text."""
    latents, text = call.needed("hidden_states"), call.needed("encoder_hidden_states")
    rows, columns = _patches(latents.shape, call.module.config.patch_size)
    n = rows * columns
    if n_queries == n:
        return Layout.of(TokenGrid(rows, columns))
    n_text = text.shape[1]
    return Layout.of(TokenGrid(rows, columns, suffix=n_text, text=range(n, n + n_text)))


def _text_then_latents(call: RunningModule, *_: Any) -> Layout:
    """FLUX: text, then packed latents, whose places are given by their ids."""
    ids, text = call.needed("img_ids"), call.needed("encoder_hidden_states")
    rows, columns = (int(n) + 1 for n in ids.reshape(-1, ids.shape[-1])[-1, 1:3])
    n_text = text.shape[1]
    return Layout.of(TokenGrid(rows, columns, prefix=n_text, text=range(n_text)))


def _refined_then_joint(
    call: RunningModule, _: Kind, n_queries: int, __: int
) -> Layout:
    """Lumina 2: text alone, padded; latents alone; then text without padding, latents.

    The sequence of one picture is as long as its own text, so that the patches of a
    batch lie at different places.
    """
    latents, mask = call.needed("hidden_states"), call.needed("encoder_attention_mask")
    rows, columns = _patches(latents.shape, call.module.config.patch_size)
    lengths = sorted({int(one) for one in mask.sum(1)})
    text = range(lengths[-1])
    joint = TokenGrid(rows, columns, prefix=len(text), text=text)
    of_length: dict[int, list[TokenGrid]] = {}
    for grid in (TokenGrid.of_text(mask.shape[1]), TokenGrid(rows, columns), joint):
        of_length.setdefault(grid.n_tokens, []).append(grid)
    fitting = of_length.get(n_queries, [])
    if len(fitting) != 1:
        return Layout.of(f"text and patches cannot be told apart in {n_queries} tokens")
    if fitting[0] is joint and len(lengths) > 1:
        return Layout.of("the texts of the batch have different lengths")
    return Layout.of(fitting[0])


def _config_patch(model: Any) -> Any:
    return model.config.patch_size


_VIT = _picture("pixel_values", _config_patch, lambda _: 1)
_DISTILLED = _picture("pixel_values", _config_patch, lambda _: 2)
_WITHOUT_CLASS = _picture("pixel_values", _config_patch, lambda _: 0)
_REGISTERS = _picture(
    "pixel_values", _config_patch, lambda model: 1 + model.config.num_register_tokens
)
_TIMM_PICTURE = _picture(
    "x", lambda model: model.patch_embed.patch_size, lambda m: m.num_prefix_tokens
)


def _timm(call: RunningModule, *others: Any) -> Layout | None:
    """A picture, whose size is fixed where parts of the model were run without it."""
    embed: Any = call.module.patch_embed
    if call.tensor("x") is None and getattr(embed, "strict_img_size", False):
        rows, columns = embed.grid_size
        return Layout.of(TokenGrid(rows, columns, prefix=call.module.num_prefix_tokens))
    return _TIMM_PICTURE(call, *others)


RULES: dict[str, Rule] = {
    "transformers.ViTModel": _VIT,
    "transformers.DeiTModel": _DISTILLED,
    "transformers.Dinov2Model": _VIT,
    "transformers.Dinov2WithRegistersModel": _REGISTERS,
    "transformers.DINOv3ViTModel": _REGISTERS,
    "transformers.CLIPVisionModel": _VIT,
    "transformers.SiglipVisionModel": _WITHOUT_CLASS,
    "transformers.Dinov2Backbone": _VIT,
    "transformers.Dinov2WithRegistersBackbone": _REGISTERS,
    "transformers.DINOv3ViTBackbone": _REGISTERS,
    "transformers.ViTMSNModel": _VIT,
    "transformers.DPTModel": _VIT,
    "transformers.MLCDVisionModel": _VIT,
    "transformers.Data2VecVisionModel": _VIT,
    "transformers.IJepaModel": _WITHOUT_CLASS,
    "transformers.Siglip2VisionModel": _of_own_size,
    "transformers.BeitModel": _VIT,
    "transformers.Idefics3VisionTransformer": _WITHOUT_CLASS,
    "transformers.SmolVLMVisionTransformer": _WITHOUT_CLASS,
    "transformers.InternVLVisionModel": _VIT,
    "transformers.SwinLayer": swin_windows,
    "transformers.Qwen2VisionTransformerPretrainedModel": square_by_square,
    "transformers.Qwen2_5_VisionTransformerPretrainedModel": square_by_square,
    "transformers.Qwen3VLVisionModel": square_by_square,
    "transformers.SamVisionLayer": sam_windows,
    "transformers.SamTwoWayTransformer": _sam_prompts,
    "transformers.VideoMAEModel": _clip,
    "transformers.ASTModel": _spectrogram,
    "transformers.WhisperEncoder": _frames,
    "transformers.WhisperDecoder": _whisper_decoder,
    **picture_tokens.RULES,
    "timm.VisionTransformer": _timm,
    "timm.Eva": _timm,
    "timm.SwinTransformerBlock": timm_windows,
    "open_clip.VisionTransformer": _picture("x", lambda m: m.patch_size, lambda _: 1),
    "open_clip.TextTransformer": sequences,
    "open_clip.CLIP": sequences,
    "diffusers.Attention": _feature_map,
    "diffusers.Transformer2DModel": _feature_map,
    "diffusers.DiTTransformer2DModel": _latents,
    "diffusers.PixArtTransformer2DModel": _latents,
    "diffusers.WanTransformer3DModel": _video,
    "diffusers.SD3Transformer2DModel": _latents_then_text,
    "diffusers.FluxTransformer2DModel": _text_then_latents,
    "diffusers.Lumina2Transformer2DModel": _refined_then_joint,
}
