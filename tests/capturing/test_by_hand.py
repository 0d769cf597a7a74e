"""Attention that a model computes itself is read where it weighs values."""

import pytest
import torch
from tests.capturing import zoo
from torch import nn

from attnchain.capturing import DenseRecord, capture
from attnchain.errors import (
    CaptureBudgetError,
    NotStochasticError,
    ShapeError,
    UnreadAttentionWarning,
    UnsupportedModelError,
)
from attnchain.operators import normalize_rows
from attnchain.testing.models import diffusion, vision

TEXT = {name: n for name, n in zoo.TEXT.items() if name != "num_key_value_heads"}
WORDS = {"input_ids": zoo.tokens(2, 9)}
PIXELS = {"pixel_values": zoo.numbers(1, 3, 32, 32)}
SIZES = {"hidden_size": 32, "n_layer": 2, "n_head": 4}
MOE = {"num_local_experts": 2, "num_experts_per_tok": 1}
SWIN = {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
PYRAMID = {"hidden_sizes": [8, 8, 16, 16], "num_attention_heads": [1, 1, 2, 2]}

FAMILIES = {
    "Gemma2": (zoo.TEXT | {"head_dim": 8, "attn_logit_softcapping": 2.0}, WORDS),
    "GptOss": (zoo.TEXT | MOE | {"head_dim": 8, "sliding_window": 4}, WORDS),
    "DebertaV2": (TEXT | {"relative_attention": True}, WORDS),
    "Bloom": ({"vocab_size": 60, **SIZES}, WORDS),
    "Mpt": ({"vocab_size": 60, "d_model": 32, "n_layers": 2, "n_heads": 4}, WORDS),
    "LayoutLMv3": (TEXT | {"coordinate_size": 4, "shape_size": 8}, WORDS),
    "Swinv2": (SWIN | {"image_size": 32, "patch_size": 4}, PIXELS),
    "Pvt": (
        PYRAMID | {"image_size": 64, "depths": [1] * 4},
        {"pixel_values": zoo.numbers(1, 3, 64, 64)},
    ),
    "BigBird": (TEXT | {"attention_type": "original_full"}, WORDS),
}


def build(family, options):
    model = zoo.transformers_model(f"{family}Model", f"{family}Config", **options)
    model.set_attn_implementation("eager")
    return model


def extra(family):
    """What a family is given beside the input of others."""
    boxes = {"bbox": torch.zeros(2, 9, 4, dtype=torch.long)}
    return boxes if family == "LayoutLMv3" else {}


def captured(model, *args, **kwargs):
    with capture(model) as attention, torch.no_grad():
        model(*args, **kwargs)
    return attention


@pytest.mark.parametrize("family", FAMILIES)
def test_the_matrix_is_the_models_own(family):
    options, given = FAMILIES[family]
    model, given = build(family, options), given | extra(family)
    with torch.no_grad():
        plain = model(**given, output_attentions=True)
        with capture(model) as attention:
            inside = model(**given)
    assert torch.equal(plain[0], inside[0])
    assert len(attention) == len(plain.attentions)
    for record, matrix in zip(attention, plain.attentions, strict=True):
        assert isinstance(record, DenseRecord)
        assert record.site.kind == "self"
        torch.testing.assert_close(record.probabilities(), matrix, atol=1e-6, rtol=0)


def test_a_sink_takes_part_of_the_attention_and_is_told():
    model = build("GptOss", FAMILIES["GptOss"][0])
    attention = captured(model, **WORDS)
    kept = attention[0].probabilities().sum(-1)
    assert float(kept.max()) < 1
    with pytest.raises(NotStochasticError, match="a sink that is no token"):
        attention.select(layers=0)
    chain = normalize_rows(attention[0].probabilities())
    torch.testing.assert_close(chain.sum(-1), torch.ones_like(kept))


def test_an_encoder_that_is_fused_and_a_decoder_by_hand():
    from transformers import TrOCRConfig, TrOCRForCausalLM, ViTConfig, ViTModel
    from transformers import VisionEncoderDecoderModel as Composite

    decoder = TrOCRConfig(
        vocab_size=50,
        d_model=32,
        decoder_layers=1,
        decoder_attention_heads=4,
        max_position_embeddings=32,
    )
    model = Composite(
        encoder=ViTModel(ViTConfig(**zoo.PICTURES)), decoder=TrOCRForCausalLM(decoder)
    ).eval()
    given = PIXELS | {"decoder_input_ids": zoo.tokens(1, 4)}
    with torch.no_grad():
        expected = model(**given, output_attentions=True)
    attention = captured(model, **given)
    assert attention.n_layers == {"self": 3, "cross": 1}
    [cross] = attention.matching(kind="cross")
    torch.testing.assert_close(cross.probabilities(), expected.cross_attentions[0])
    own = attention.matching(name="decoder*", kind="self")
    torch.testing.assert_close(own[0].probabilities(), expected.decoder_attentions[0])


@pytest.mark.parametrize("backbone", ["ResNet", "Dinov2"])
def test_a_backbone_does_not_refuse_the_whole(backbone):
    import transformers

    if backbone == "ResNet":
        config = transformers.DetrConfig(
            use_timm_backbone=False,
            backbone=None,
            backbone_config=transformers.ResNetConfig(
                embedding_size=8,
                hidden_sizes=[8, 8, 8, 16],
                depths=[1] * 4,
                out_features=["stage4"],
            ),
            d_model=32,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            num_queries=5,
        )
        model, kinds = transformers.DetrModel(config), {"self": 2, "cross": 1}
    else:
        config = transformers.VitPoseConfig(
            backbone_config=transformers.VitPoseBackboneConfig(
                **zoo.PICTURES | {"image_size": [32, 32], "patch_size": [8, 8]}
            )
        )
        model, kinds = transformers.VitPoseForPoseEstimation(config), {"self": 2}
    before = [
        m.config._attn_implementation
        for m in model.modules()
        if hasattr(m, "set_attn_implementation")
    ]
    attention = captured(model.eval(), zoo.numbers(1, 3, 32, 32))
    assert attention.n_layers == kinds
    assert before == [
        m.config._attn_implementation
        for m in model.modules()
        if hasattr(m, "set_attn_implementation")
    ]


def test_the_eager_processor_of_diffusers():
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

    tiny = diffusion.ddpm_unet()
    matrices = {}
    for processor in (AttnProcessor2_0(), AttnProcessor()):
        for module in tiny.model.modules():
            if hasattr(module, "set_processor"):
                module.set_processor(processor)
        with capture(tiny.model) as attention:
            tiny.run()
        matrices[type(processor)] = [r.probabilities() for r in attention]
        assert {r.site.kind for r in attention} == {"self"}
    for fused, eager in zip(*matrices.values(), strict=True):
        torch.testing.assert_close(eager, fused, atol=1e-5, rtol=0)


class Research(nn.Module):
    """Ordinary research code: heads, a bias, dropout, a product."""

    def __init__(self, form):
        super().__init__()
        self.qkv, self.form = nn.Linear(8, 24), form
        self.dropout = nn.Dropout(0.5)

    def forward(self, x, context=None):
        context = x if context is None else context
        q = self.qkv(x)[..., :8].unflatten(-1, (2, 4)).transpose(1, 2)
        kv = self.qkv(context)[..., 8:].unflatten(-1, (2, 8)).transpose(1, 2)
        k, v = kv.chunk(2, -1)
        if self.form == "einsum":
            scores = torch.einsum("bhid,bhjd->bhij", q, k) * 0.5
            weights = self.dropout(scores.softmax(dim=-1))
            return torch.einsum("bhij,bhjd->bhid", weights, v)
        if self.form == "turned":
            weights = (q @ k.mT / 2).softmax(-1)
            return v.mT @ self.dropout(weights).permute(0, 1, 3, 2).contiguous()
        scores = q.flatten(0, 1) @ k.flatten(0, 1).mT / 2
        weights = torch.softmax(scores, -1)
        return torch.bmm(self.dropout(weights), v.flatten(0, 1))


def expected_weights(model, x, context):
    q = model.qkv(x)[..., :8].unflatten(-1, (2, 4)).transpose(1, 2)
    k = model.qkv(context)[..., 8:].unflatten(-1, (2, 8)).transpose(1, 2)[..., :4]
    return (q @ k.mT / 2).softmax(-1)


@pytest.mark.parametrize("form", ["einsum", "bmm", "turned"])
@pytest.mark.parametrize("length", [None, 6, 4])
def test_research_code(form, length):
    """Also in training, with dropout; also between two sequences."""
    model, x = Research(form).train(), zoo.numbers(3, 6, 8)
    given = [x] if length is None else [x, zoo.numbers(3, length, 8, seed=5)]
    attention = captured(model, *given)
    [record] = attention
    assert record.site.kind == ("self" if length is None else "cross")
    expected = expected_weights(model, x, given[-1])
    matrix = record.probabilities().reshape(expected.shape)
    torch.testing.assert_close(matrix, expected)


def test_the_other_direction_is_no_attention():
    """Values gathered along columns, as slots gather them, are not rows of weights."""

    class ColumnAttention(nn.Module):
        def forward(self, x):
            return (x @ x.mT).softmax(-1).mT @ x

    with pytest.raises(UnsupportedModelError, match="by hand"):
        captured(ColumnAttention(), zoo.numbers(2, 6, 8))


def test_part_by_hand_and_part_fused_in_one_module():
    class Both(Research):
        def forward(self, x):
            fused = nn.functional.scaled_dot_product_attention(x, x, x)
            return super().forward(x), fused

    attention = captured(Both("einsum"), zoo.numbers(1, 8, 8))
    assert [(r.site.layer, r.site.call, r.shape[1]) for r in attention] == [
        (0, 0, 1),
        (0, 1, 2),
    ]


def test_the_budget_counts_matrices():
    model, x = Research("einsum"), zoo.numbers(1, 6, 8)
    need = captured(model, x).nbytes
    assert need == 2 * 6 * 6 * 4
    with pytest.raises(CaptureBudgetError), capture(model, max_bytes=need - 1):
        model(x)
    with capture(model, keep="mean", max_bytes=need // 2) as mean:
        model(x)
    expected = captured(model, x)[0].probabilities().mean(1, keepdim=True)
    torch.testing.assert_close(mean[0].probabilities(), expected)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("Longformer", TEXT | {"attention_window": 4}),
        ("BigBird", TEXT | {"max_position_embeddings": 128, "block_size": 4}),
    ],
)
def test_attention_in_blocks_is_refused(family, options):
    if family == "BigBird":
        options = options | {"attention_type": "block_sparse", "num_random_blocks": 1}
    model = build(family, options)
    with pytest.raises(UnsupportedModelError, match=r"by hand in encoder\.layer\.0"):
        captured(model, zoo.tokens(1, 64 if family == "BigBird" else 8))


def test_weights_mixed_over_heads_are_told():
    """CaiT projects its weights from head to head: rows are no probabilities."""
    from timm.models.cait import Cait

    model = Cait(
        img_size=32,
        patch_size=8,
        embed_dim=32,
        depth=2,
        num_heads=2,
        depth_token_only=1,
    ).eval()
    with pytest.warns(
        UnreadAttentionWarning, match=r"blocks\.0\.attn; blocks\.1\.attn"
    ):
        attention = captured(model, zoo.numbers(1, 3, 32, 32))
    assert len(attention) == 1


@pytest.mark.parametrize("name", ["xcit_nano_12_p8_224", "davit_tiny"])
def test_attention_among_channels_is_no_chain_of_tokens(name):
    import timm

    model = timm.create_model(name, pretrained=False).eval()
    attention = captured(model, zoo.numbers(1, 3, 64, 64))
    channels = attention.matching(kind="channel")
    assert {r.shape[-1] for r in channels} == {32}
    assert not {r.site.kind for r in attention.matching()} & {"channel"}
    with pytest.raises(ShapeError, match="channel"):
        channels[0].transition()


def test_heads_merged_with_pictures():
    """SAM of timm gives (pictures x heads, n, d) to fused attention."""
    from timm.models.vision_transformer_sam import VisionTransformerSAM

    model = VisionTransformerSAM(
        img_size=64,
        patch_size=16,
        embed_dim=32,
        depth=2,
        num_heads=2,
        window_size=2,
        global_attn_indexes=(1,),
    ).eval()
    attention = captured(model, zoo.numbers(1, 3, 64, 64))
    assert [r.shape for r in attention] == [(4, 2, 4, 4), (1, 2, 16, 16)]


def test_heads_before_windows():
    """Hiera has (pictures, heads, windows, n, d), fused in timm and by hand."""
    from timm.models.hiera import Hiera

    model = Hiera(
        img_size=(64, 64),
        embed_dim=16,
        num_heads=2,
        stages=(1, 1, 1),
        mask_unit_size=(8, 8),
        q_pool=2,
    ).eval()
    attention = captured(model, zoo.numbers(1, 3, 64, 64))
    heads = [m.heads for m in model.modules() if hasattr(m, "heads")]
    assert [r.shape[1] for r in attention] == heads[: len(attention)]


def test_vision_models_without_a_switch_are_read(monkeypatch):
    tiny = vision.dinov2()
    tiny.model.set_attn_implementation("eager")
    expected = tiny.run(output_attentions=True).attentions
    monkeypatch.setattr(type(tiny.model), "_supports_sdpa", False)
    attention = captured(tiny.model, **tiny.kwargs)
    for record, matrix in zip(attention, expected, strict=True):
        torch.testing.assert_close(record.probabilities(), matrix)
