"""Families that weigh values by hand, whole or in part: the weights are their own."""

import pytest
import torch
from tests.capturing import zoo
from torch import nn

from attnchain.capturing import capture
from attnchain.errors import UnreadAttentionWarning
from attnchain.testing.models import TinyModel, importable_torchvision

PICTURE = zoo.numbers(2, 3, 64, 64)
SMALL = {"img_size": 64, "num_classes": 0}


def levit(**options):
    from timm.models.levit import Levit

    sizes = {"embed_dim": (32, 48, 64), "num_heads": (2, 3, 4), "depth": (1, 1, 1)}
    return Levit(**SMALL, **sizes, key_dim=8, **options)


def mvitv2():
    """Queries and keys are pooled."""
    from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg

    config = MultiScaleVitCfg(depths=(1, 1, 1, 1), embed_dim=16, use_cls_token=True)
    return MultiScaleVit(config, **SMALL)


def volo():
    """Outlook attention in windows of 3 x 3, then fused, then of the class token."""
    from timm.models.volo import VOLO

    return VOLO(
        layers=(1, 1, 1, 1),
        embed_dims=(16, 32, 32, 32),
        num_heads=(2, 4, 4, 4),
        post_layers=("ca", "ca"),
        **SMALL,
    )


def crossvit():
    from timm.models.crossvit import CrossVit

    return CrossVit(
        img_scale=(1.0, 1.0),
        patch_size=(16, 8),
        embed_dim=(16, 32),
        depth=((1, 1, 0),),
        num_heads=(2, 4),
        mlp_ratio=(2.0, 2.0, 1.0),
        **SMALL,
    )


def swinv2():
    from timm.models.swin_transformer_v2 import SwinTransformerV2

    sizes = {"embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4}
    return SwinTransformerV2(patch_size=4, **SMALL, **sizes)


def torchvision_swin():
    try:
        importable_torchvision()
        from torchvision.models.swin_transformer import SwinTransformer
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision cannot be imported here: {error}")
    sizes = {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4]}
    return SwinTransformer([4, 4], window_size=[4, 4], num_classes=5, **sizes)


FAMILIES = {
    "timm LeViT": levit,
    "timm LeViT, convolutions": lambda: levit(use_conv=True),
    "timm MViTv2": mvitv2,
    "timm VOLO": volo,
    "timm CrossViT": crossvit,
    "timm Swin v2": swinv2,
    "torchvision Swin": torchvision_swin,
}


def own_softmaxes(model, monkeypatch):
    """All softmax matrices of a plain run without fused attention."""
    noted, softmax = [], torch.Tensor.softmax

    def noting(*args, **kwargs):
        noted.append(softmax(*args, **kwargs))
        return noted[-1]

    fused = [m for m in model.modules() if getattr(m, "fused_attn", False)]
    with monkeypatch.context() as patch, torch.no_grad():
        for module in fused:
            patch.setattr(module, "fused_attn", False)
        patch.setattr(torch.Tensor, "softmax", noting)
        model(PICTURE)
    return noted


@pytest.mark.parametrize("build", FAMILIES.values(), ids=FAMILIES.keys())
def test_the_weights_are_those_of_a_plain_run(build, monkeypatch):
    model = TinyModel.of(build().eval()).model
    expected = own_softmaxes(model, monkeypatch)
    with torch.no_grad(), capture(model) as attention:
        model(PICTURE)
    assert len(attention) == len(expected)
    for record, matrix in zip(attention, expected, strict=True):
        found = record.probabilities()
        assert found.shape[-2:] == matrix.shape[-2:]
        windows = matrix.ndim == 5  # VOLO: heads before windows
        own = matrix.transpose(1, 2) if windows else matrix
        torch.testing.assert_close(found, own.reshape(found.shape), atol=1e-5, rtol=0)
    first = attention[0].probabilities()
    assert float(first.max()) > 2 * float(first.mean())


SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}


def test_vilt():
    """Which patches it takes is drawn by chance."""
    model = zoo.transformers_model(
        "ViltModel",
        "ViltConfig",
        **SIZES,
        vocab_size=60,
        image_size=32,
        patch_size=8,
        max_image_length=-1,
    )
    model.set_attn_implementation("eager")
    given = {
        "input_ids": zoo.tokens(2, 7),
        "pixel_values": zoo.numbers(2, 3, 32, 32),
        "pixel_mask": torch.ones(2, 32, 32).long(),
    }
    torch.manual_seed(0)
    with torch.no_grad():
        expected = model(**given, output_attentions=True).attentions
    torch.manual_seed(0)
    with torch.no_grad(), capture(model) as attention:
        model(**given)
    for record, matrix in zip(attention, expected, strict=True):
        torch.testing.assert_close(record.probabilities(), matrix, atol=1e-6, rtol=0)


def test_wavlm():
    """It tells the mean over its heads, repeated for each."""
    model = zoo.transformers_model(
        "WavLMModel",
        "WavLMConfig",
        **SIZES,
        conv_dim=(16, 16),
        conv_kernel=(10, 3),
        conv_stride=(5, 2),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=4,
    )
    sound = zoo.numbers(2, 400)
    with torch.no_grad():
        expected = model(sound, output_attentions=True).attentions
        with capture(model) as attention:
            model(sound)
    assert len(attention) == len(expected)
    for record, matrix in zip(attention, expected, strict=True):
        found = record.probabilities()
        assert found.shape == matrix.shape
        mean = found.mean(1, keepdim=True).expand_as(matrix)
        torch.testing.assert_close(mean, matrix, atol=1e-5, rtol=0)
        assert float((found - mean).abs().max()) > 1e-3


def test_mask2former():
    """Sampling at a few points of a map is no matrix of attention, and is told."""
    importable_torchvision()
    from transformers import SwinConfig

    backbone = SwinConfig(
        image_size=64,
        patch_size=4,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    model = zoo.transformers_model(
        "Mask2FormerModel",
        "Mask2FormerConfig",
        backbone_config=backbone,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        encoder_layers=1,
        decoder_layers=3,
        num_attention_heads=2,
        dim_feedforward=16,
        num_queries=5,
    )
    looked = []
    layers = [m for m in model.modules() if isinstance(m, nn.MultiheadAttention)]
    hooks = [
        m.register_forward_hook(lambda _, __, r: looked.append(r[1])) for m in layers
    ]
    with torch.no_grad():
        expected = model(zoo.numbers(1, 3, 64, 64), output_attentions=True).attentions
        for hook in hooks:
            hook.remove()
        with (
            pytest.warns(UnreadAttentionWarning, match=r"decoder\.encoder\.layers\.0"),
            capture(model) as attention,
        ):
            model(zoo.numbers(1, 3, 64, 64))
    own = attention.matching(name="*decoder*self_attn")
    for record, matrix in zip(own, expected, strict=True):
        torch.testing.assert_close(record.probabilities(), matrix, atol=1e-6, rtol=0)
    crossing = attention.matching(kind="cross")
    assert len(crossing) == len(looked) == 2
    for record, matrix in zip(crossing, looked, strict=True):
        found = record.probabilities().mean(1)
        torch.testing.assert_close(found, matrix, atol=1e-5, rtol=0)
