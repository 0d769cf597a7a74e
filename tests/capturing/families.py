"""Tiny models of the families that people run most, each with an input."""

import torch
from tests.capturing.zoo import PICTURE, TEXT, numbers, tokens, transformers_model

from attnchain.testing.models import TinyModel, importable_torchvision

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
TOWER = SMALL | {"intermediate_size": 48, "patch_size": 4}
START, END = 56, 57


def of_text(name, **options):
    """A model of transformers that takes text, its second sequence padded."""
    model = transformers_model(f"{name}Model", f"{name}Config", **TEXT | options)
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[1, -2:] = 0
    return TinyModel(model, kwargs={"input_ids": tokens(2, 7), "attention_mask": mask})


def decoder(name, **options):
    """A decoder that keeps no cache."""
    return of_text(name, use_cache=False, **options)


def gpt2():
    """GPT-2, whose options have other names."""
    sizes = {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
    return decoder("GPT2", **sizes)


def mistral():
    """Mistral: a window of five tokens."""
    return decoder("Mistral", sliding_window=5)


def qwen2():
    """Qwen 2."""
    return decoder("Qwen2")


def qwen3():
    """Qwen 3."""
    return decoder("Qwen3", head_dim=8)


def gemma():
    """Gemma."""
    return decoder("Gemma", head_dim=8)


def gemma2():
    """Gemma 2: scores are capped, so that attention is computed by hand."""
    options = {"head_dim": 8, "sliding_window": 5, "attn_implementation": "eager"}
    return decoder("Gemma2", **options)


def gemma3():
    """Gemma 3, its text alone."""
    model = transformers_model(
        "Gemma3TextModel", "Gemma3TextConfig", **TEXT, head_dim=8, sliding_window=5
    )
    return TinyModel(model, kwargs={"input_ids": tokens(2, 7), "use_cache": False})


def roberta():
    """RoBERTa."""
    return of_text("Roberta", pad_token_id=1)


def modernbert():
    """ModernBERT: every other layer sees a window."""
    return of_text(
        "ModernBert",
        global_attn_every_n_layers=2,
        local_attention=4,
        cls_token_id=1,
        sep_token_id=2,
    )


def two_sided(model):
    """An encoder-decoder on two texts of different lengths."""
    given = {"input_ids": tokens(2, 7), "decoder_input_ids": tokens(2, 5, seed=3)}
    return TinyModel(model, kwargs=given | {"use_cache": False})


def beit():
    """BEiT, with a relative position bias in every layer."""
    model = transformers_model(
        "BeitModel",
        "BeitConfig",
        **TOWER | {"image_size": 16},
        use_relative_position_bias=True,
    )
    return TinyModel(model, kwargs={"pixel_values": numbers(2, 3, 16, 16)})


def sam():
    """SAM's encoder on a picture of 6 x 6 patches: windows of four, then global."""
    model = transformers_model(
        "SamVisionModel",
        "SamVisionConfig",
        **SMALL,
        mlp_dim=48,
        image_size=24,
        patch_size=4,
        output_channels=8,
        window_size=4,
        global_attn_indexes=[1],
        use_rel_pos=True,
    )
    return TinyModel(model, kwargs={"pixel_values": numbers(2, 3, 24, 24)})


def videomae():
    """VideoMAE on six frames, two of them in a patch."""
    model = transformers_model(
        "VideoMAEModel",
        "VideoMAEConfig",
        **TOWER | {"image_size": 16},
        num_frames=6,
        tubelet_size=2,
    )
    return TinyModel(model, kwargs={"pixel_values": numbers(2, 6, 3, 16, 16)})


def ast():
    """AST on overlapping patches of a spectrogram."""
    model = transformers_model(
        "ASTModel",
        "ASTConfig",
        **TOWER,
        num_mel_bins=12,
        max_length=20,
        frequency_stride=2,
        time_stride=3,
    )
    return TinyModel(model, kwargs={"input_values": numbers(2, 20, 12)})


def seeing(name, *, vision, text, text_config, vision_config, **options):
    """A vision-language model, from the classes of its parts' configurations."""
    importable_torchvision()
    import transformers

    return transformers_model(
        f"{name}ForConditionalGeneration",
        f"{name}Config",
        vision_config=getattr(transformers, vision)(**vision_config),
        text_config=getattr(transformers, text)(**TEXT | text_config),
        **options,
    )


def llava_model(name="Llava", **options):
    """LLaVA around CLIP, 16 x 16 pixels and 4 x 4 patches."""
    return seeing(
        name,
        vision="CLIPVisionConfig",
        text="LlamaConfig",
        vision_config=TOWER | {"image_size": 16},
        text_config={},
        image_token_index=PICTURE,
        vision_feature_layer=-1,
        **options,
    )


def llava_next_model():
    """LLaVA-NeXT: up to two tiles down and across."""
    pinpoints = [[32, 32], [16, 32], [32, 16], [16, 48]]
    return llava_model("LlavaNext", image_grid_pinpoints=pinpoints)


def paligemma_model():
    """PaliGemma around SigLIP."""
    return seeing(
        "PaliGemma",
        vision="SiglipVisionConfig",
        text="GemmaConfig",
        vision_config=TOWER | {"image_size": 16, "vision_use_head": False},
        text_config={"head_dim": 8},
        image_token_index=PICTURE,
        projection_dim=32,
    )


def gemma3_model():
    """Gemma 3 with pictures: 4 x 4 patches averaged to 2 x 2."""
    return seeing(
        "Gemma3",
        vision="SiglipVisionConfig",
        text="Gemma3TextConfig",
        vision_config=TOWER | {"image_size": 16, "vision_use_head": False},
        text_config={"head_dim": 8},
        image_token_index=PICTURE,
        mm_tokens_per_image=4,
    )


QWEN_TOWER = {"depth": 2, "hidden_size": 32, "num_heads": 4, "patch_size": 4}
QWEN_IDS = {
    "image_token_id": PICTURE,
    "vision_start_token_id": START,
    "vision_end_token_id": END,
    "video_token_id": 58,
}


def qwen_model(number):
    """Qwen 2, 2.5 or 3 VL; the second has windows of four patches but in layer 1."""
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 1e4}
    own = {
        "2": {"embed_dim": 32, "mlp_ratio": 2},
        "2_5": {
            "intermediate_size": 48,
            "out_hidden_size": 32,
            "window_size": 16,
            "fullatt_block_indexes": [1],
        },
        "3": {
            "intermediate_size": 48,
            "out_hidden_size": 32,
            "deepstack_visual_indexes": [0],
            "num_position_embeddings": 64,
        },
    }
    head = {"head_dim": 8} if number == "3" else {}
    dash = "_" if number == "2_5" else ""
    return transformers_model(
        f"Qwen{number}{dash}VLForConditionalGeneration".replace("__", "_"),
        f"Qwen{number}{dash}VLConfig".replace("__", "_"),
        text_config=TEXT | {"rope_parameters": rope} | head,
        vision_config=QWEN_TOWER | own[number],
        **QWEN_IDS,
    )


def tagged_model(name="Idefics3"):
    """Idefics 3 or SmolVLM: tiles of 16 x 16 pixels, patches merged 2 x 2."""
    importable_torchvision()
    import transformers

    return transformers_model(
        f"{name}ForConditionalGeneration",
        f"{name}Config",
        vision_config=TOWER | {"image_size": 16},
        text_config=transformers.LlamaConfig(**TEXT),
        image_token_id=PICTURE,
        scale_factor=2,
    )


def internvl_model():
    """InternVL: tiles of 16 x 16 pixels, patches merged 2 x 2."""
    return seeing(
        "InternVL",
        vision="InternVLVisionConfig",
        text="Qwen2Config",
        vision_config=TOWER | {"image_size": [16, 16], "patch_size": [4, 4]},
        text_config={},
        image_token_id=PICTURE,
    )


def prompt(*parts):
    """A prompt of four words, then parts (numbers of tokens), with three words each."""
    words = tokens(4 + 3 * len(parts)).tolist()
    ids = words[:4]
    for k, part in enumerate(parts):
        ids += [*part, *words[4 + 3 * k : 7 + 3 * k]]
    return torch.tensor([ids])


def llava():
    """Two pictures of 4 x 4 patches in a prompt."""
    ids = prompt([PICTURE] * 16, [PICTURE] * 16)
    return TinyModel(
        llava_model(), kwargs={"input_ids": ids, "pixel_values": numbers(2, 3, 16, 16)}
    )


def llava_next():
    """A picture of two tiles side by side, after its thumbnail."""
    ids = prompt([PICTURE] * (16 + 4 * 9))
    return TinyModel(
        llava_next_model(),
        kwargs={
            "input_ids": ids,
            "pixel_values": numbers(1, 3, 3, 16, 16),
            "image_sizes": torch.tensor([[16, 32]]),
        },
    )


def paligemma():
    """A picture, then text."""
    ids = torch.cat((torch.full((1, 16), PICTURE), tokens(1, 5)), 1)
    given = {"input_ids": ids, "pixel_values": numbers(1, 3, 16, 16)}
    given |= {"token_type_ids": torch.zeros_like(ids)}
    return TinyModel(paligemma_model(), kwargs=given)


def gemma3_seeing():
    """A picture of 4 x 4 patches, averaged to 2 x 2."""
    ids = prompt([PICTURE] * 4)
    given = {"input_ids": ids, "pixel_values": numbers(1, 3, 16, 16)}
    given |= {"token_type_ids": (ids == PICTURE).long()}
    return TinyModel(gemma3_model(), kwargs=given)


def qwen(number):
    """A picture of 4 x 6 patches, merged to 2 x 3."""
    ids = prompt([START, *[PICTURE] * 6, END])
    return TinyModel(
        qwen_model(number),
        kwargs={
            "input_ids": ids,
            "pixel_values": numbers(24, 96),
            "image_grid_thw": torch.tensor([[1, 4, 6]]),
            "mm_token_type_ids": (ids == PICTURE).long(),
        },
    )


FAKE, WHOLE, BREAK = 51, 52, 53


def tile(tag):
    """A tile of four tokens after its tag, as Idefics 3 writes it."""
    return [FAKE, tag, *[PICTURE] * 4]


def tagged():
    """A picture of 2 x 3 tiles and the whole, then a picture that was not cut."""
    rows = (
        [t for tag in tags for t in tile(tag)] for tags in ((40, 41, 42), (43, 44, 45))
    )
    cut = [token for row in rows for token in (*row, BREAK)]
    ids = prompt([*cut, BREAK, *tile(WHOLE), FAKE], [*tile(WHOLE), FAKE])
    return TinyModel(
        tagged_model(),
        kwargs={"input_ids": ids, "pixel_values": numbers(1, 8, 3, 16, 16)},
    )


def internvl():
    """Two pictures that were not cut into tiles."""
    ids = prompt([START, *[PICTURE] * 4, END], [START, *[PICTURE] * 4, END])
    return TinyModel(
        internvl_model(),
        kwargs={"input_ids": ids, "pixel_values": numbers(2, 3, 16, 16)},
    )
