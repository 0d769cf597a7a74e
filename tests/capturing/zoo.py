"""Tiny models beside the supported families: decoders, composites, video, windows."""

import copy

import torch

from attnchain.testing.models import TinyModel, importable_torchvision

TEXT = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
PICTURES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
PICTURE = 55


def tokens(*shape, seed=2):
    """Token numbers without special ones."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, 50, shape, generator=generator)


def numbers(*shape, seed=1):
    """Random numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def transformers_model(name, config, **options):
    """A model of transformers with uneven attention."""
    importable_torchvision()
    import transformers

    made = getattr(transformers, config)(**options)
    return TinyModel.of(getattr(transformers, name)(made)).model


def eager_twin(model):
    """The same weights with the model's own eager attention."""
    config = copy.deepcopy(model.config)
    twin = type(model)._from_config(config, attn_implementation="eager").eval()
    twin.load_state_dict(model.state_dict())
    return twin


def decoder(name, **options):
    """A causal language model of transformers."""
    return transformers_model(f"{name}ForCausalLM", f"{name}Config", **TEXT | options)


def paligemma():
    """A vision-language model: SigLIP tower, Gemma, 16 picture tokens."""
    importable_torchvision()
    from transformers import GemmaConfig, SiglipVisionConfig

    return transformers_model(
        "PaliGemmaForConditionalGeneration",
        "PaliGemmaConfig",
        vision_config=SiglipVisionConfig(**PICTURES, vision_use_head=False),
        text_config=GemmaConfig(**TEXT, head_dim=8),
        image_token_index=PICTURE,
        projection_dim=32,
    )


def qwen2_vl():
    """A vision-language model whose tower attends to each picture by itself."""
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 1e4}
    return transformers_model(
        "Qwen2VLForConditionalGeneration",
        "Qwen2VLConfig",
        text_config=TEXT | {"rope_parameters": rope},
        vision_config={
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 32,
            "num_heads": 4,
            "patch_size": 4,
            "mlp_ratio": 2,
        },
        image_token_id=PICTURE,
        vision_start_token_id=56,
        vision_end_token_id=57,
        video_token_id=58,
    )


def t5():
    """An encoder-decoder with relative positions."""
    return transformers_model(
        "T5ForConditionalGeneration",
        "T5Config",
        vocab_size=60,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
    )


def bart():
    """An encoder-decoder with learned positions."""
    sides = {
        f"{side}_{what}": number
        for side in ("encoder", "decoder")
        for what, number in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 48))
    }
    return transformers_model(
        "BartForConditionalGeneration",
        "BartConfig",
        vocab_size=60,
        d_model=32,
        max_position_embeddings=64,
        decoder_start_token_id=2,
        forced_eos_token_id=None,
        **sides,
    )


def diffusers_model(name, **options):
    """A denoiser of diffusers with uneven attention."""
    importable_torchvision()
    import diffusers

    return TinyModel.of(getattr(diffusers, name)(**options)).model


HEADS = {"num_attention_heads": 2, "attention_head_dim": 8}


def auraflow():
    """Dual blocks, then single ones; eight registers before the text."""
    model = diffusers_model(
        "AuraFlowTransformer2DModel",
        **HEADS,
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=2,
        joint_attention_dim=12,
        caption_projection_dim=16,
        pos_embed_max_size=16,
    )
    return model, (numbers(1, 4, 8, 8), numbers(1, 5, 12), torch.ones(1))


def chroma():
    """Dual blocks, then single ones; packed latents."""
    model = diffusers_model(
        "ChromaTransformer2DModel",
        **HEADS,
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=2,
        joint_attention_dim=12,
        axes_dims_rope=(2, 2, 4),
        approximator_num_channels=8,
        approximator_hidden_dim=8,
        approximator_layers=1,
    )
    ids = torch.zeros(24, 3), torch.zeros(5, 3)
    return model, (numbers(1, 24, 4), numbers(1, 5, 12), torch.ones(1), *ids)


def lumina2():
    """Text and picture refined apart, then one sequence of both."""
    model = diffusers_model(
        "Lumina2Transformer2DModel",
        sample_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=16,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=8,
        axes_dim_rope=(2, 2, 4),
        axes_lens=(32, 32, 32),
        cap_feat_dim=12,
    )
    seen = torch.ones(1, 5, dtype=torch.bool)
    return model, (numbers(1, 4, 8, 8), torch.ones(1), numbers(1, 5, 12), seen)


def mochi():
    """Attends to each video of the batch by itself, padding left out."""
    model = diffusers_model(
        "MochiTransformer3DModel",
        **HEADS,
        patch_size=2,
        num_layers=2,
        pooled_projection_dim=16,
        in_channels=4,
        text_embed_dim=16,
        time_embed_dim=8,
        max_sequence_length=8,
    )
    seen = torch.arange(8) < torch.tensor([[8], [5]])
    return model, (numbers(2, 4, 2, 8, 8), numbers(2, 8, 16), torch.ones(2), seen)


def wan(**options):
    """A video transformer with cross-attention to text, and to a picture if asked."""
    return diffusers_model(
        "WanTransformer3DModel",
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=32,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
        **options,
    )
