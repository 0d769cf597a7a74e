"""A layer is a module's place; what keys are is decided by what they come from."""

import pytest
import torch
from tests.capturing import zoo
from torch import nn
from torch.nn import functional

from attnchain.capturing import capture
from attnchain.errors import ShapeError


def captured(model, *args, **kwargs):
    with capture(model) as attention, torch.no_grad():
        model(*args, **kwargs)
    return attention


def places(attention):
    return [(r.site.kind, r.site.layer, r.site.call, r.shape[-1]) for r in attention]


class TestLayers:
    def test_pictures_of_different_sizes(self):
        """Qwen2-VL calls attention once for each picture."""
        tower = zoo.qwen2_vl().model.visual
        grid = torch.tensor([[1, 4, 4], [1, 4, 8]])
        attention = captured(tower, zoo.numbers(48, 96), grid_thw=grid)
        assert attention.n_layers == {"self": 2}
        assert places(attention) == [
            ("self", layer, call, n)
            for layer in (0, 1)
            for call, n in enumerate((16, 32))
        ]
        alone = captured(tower, zoo.numbers(48, 96)[:16], grid_thw=grid[:1])
        for layer in (0, 1):
            first, _ = attention.matching(layers=layer)
            [expected] = alone.matching(layers=layer)
            torch.testing.assert_close(
                first.probabilities(), expected.probabilities(), atol=1e-5, rtol=0
            )

    @pytest.mark.filterwarnings("ignore:In CPU autocast")
    def test_videos_of_a_batch_one_by_one(self):
        model, args = zoo.mochi()
        attention = captured(model, *args)
        blocks = attention.matching(kind="joint")
        assert [(r.site.layer, r.site.call, r.shape[-1]) for r in blocks] == [
            (0, 0, 40),
            (0, 1, 37),
            (1, 0, 40),
            (1, 1, 37),
        ]

    def test_text_and_picture_prompts_of_one_layer(self):
        """Wan from a picture attends to the picture, then to the text."""
        model = zoo.wan(image_dim=20, added_kv_proj_dim=24)
        args = (zoo.numbers(1, 16, 2, 8, 8), torch.ones(1), zoo.numbers(1, 512, 32))
        attention = captured(model, *args, zoo.numbers(1, 9, 20))
        assert attention.n_layers == {"self": 2, "cross": 2}
        keys = [(r.site.layer, r.site.call, r.shape[-1]) for r in attention][1::3]
        assert [layer for layer, *_ in keys] == [0, 1]

    def test_an_ip_adapter(self):
        """Attention to the picture prompt is a second call of the same layer."""
        model = nn.Sequential(Adapter(), Adapter())
        x = zoo.numbers(1, 6, 8)
        attention = captured(
            Prompted(model), x, zoo.numbers(1, 4, 8), zoo.numbers(1, 3, 8)
        )
        assert attention.n_layers == {"cross": 2}
        assert places(attention) == [
            ("cross", layer, call, n)
            for layer in (0, 1)
            for call, n in ((0, 4), (1, 3))
        ]

    def test_layers_that_share_weights_are_layers(self):
        model = zoo.transformers_model(
            "AlbertModel",
            "AlbertConfig",
            vocab_size=60,
            embedding_size=16,
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=48,
        )
        attention = captured(model, zoo.tokens(1, 6))
        assert [r.site.layer for r in attention] == [0, 1, 2]
        matrices = zoo.eager_twin(model)(
            zoo.tokens(1, 6), output_attentions=True
        ).attentions
        for record, matrix in zip(attention, matrices, strict=True):
            torch.testing.assert_close(
                record.probabilities(), matrix, atol=1e-5, rtol=0
            )

    @pytest.mark.parametrize("stages", [(1, 1), (2, 1)])
    def test_fewer_keys_of_the_same_sequence_are_self_attention(self, stages):
        """Keys are pooled, as in Pyramid ViT and Segformer."""
        model = Staged(stages)
        attention = captured(model, zoo.numbers(2, 16, 8))
        assert attention.n_layers == {"self": sum(stages)}
        assert [r.site.layer for r in attention] == list(range(sum(stages)))
        with pytest.raises(ShapeError, match="16 queries and 4 keys"):
            attention.select(layers=0)


class Adapter(nn.Module):
    def forward(self, x, text, picture):
        seen = functional.scaled_dot_product_attention(x, text, text)
        return seen + functional.scaled_dot_product_attention(x, picture, picture)


class Prompted(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, x, text, picture):
        for layer in self.layers:
            x = x + layer(x, text, picture)
        return x


class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.to_q, self.to_kv = nn.Linear(8, 8), nn.Linear(8, 16)

    def forward(self, x):
        k, v = self.to_kv(x[:, ::4]).chunk(2, -1)
        return functional.scaled_dot_product_attention(self.to_q(x), k, v)


class Staged(nn.Module):
    def __init__(self, stages):
        super().__init__()
        self.stages = nn.ModuleList(
            nn.ModuleList(Pooled() for _ in range(depth)) for depth in stages
        )

    def forward(self, x):
        for stage in self.stages:
            for layer in stage:
                x = x + layer(x)
        return x


class TestKinds:
    @pytest.mark.parametrize(
        ("build", "length"), [(zoo.auraflow, 29), (zoo.chroma, 29)]
    )
    def test_single_blocks_see_text_and_picture(self, build, length):
        model, args = build()
        attention = captured(model, *args)
        assert [(r.site.kind, r.site.layer) for r in attention] == [
            ("joint", n) for n in range(3)
        ]
        assert {r.shape[-1] for r in attention} == {length}

    def test_a_sequence_given_twice_is_one_sequence(self):
        """Lumina 2 hands its own sequence over as encoder_hidden_states."""
        model, args = zoo.lumina2()
        attention = captured(model, *args)
        assert [(r.site.kind, r.shape[-1]) for r in attention] == [
            ("self", 5),
            ("self", 16),
            ("joint", 21),
            ("joint", 21),
        ]

    @pytest.mark.parametrize("length", [5, 6])
    def test_a_decoder_of_torch(self, length):
        """Also where memory and target have one length."""
        layer = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)
        model = nn.TransformerDecoder(layer, 2).eval()
        attention = captured(model, zoo.numbers(1, 5, 8), zoo.numbers(1, length, 8))
        assert [r.site.kind for r in attention] == ["self", "cross"] * 2

    def test_learned_queries_are_cross_attention(self):
        from timm.layers import AttentionPoolLatent

        model = AttentionPoolLatent(16, num_heads=2).eval()
        [record] = captured(model, zoo.numbers(1, 9, 16))
        assert record.site.kind == "cross"

    def test_queries_projected_outside_the_attention_module(self):
        class Core(nn.Module):
            def forward(self, q, k, v):
                return functional.scaled_dot_product_attention(q, k, v)

        class Outer(nn.Module):
            def __init__(self):
                super().__init__()
                self.projections = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
                self.core = Core()

            def forward(self, x, context):
                q, k, v = (
                    one(given)
                    for one, given in zip(
                        self.projections, (x, context, context), strict=True
                    )
                )
                return self.core(q, k, v)

        class Own(Outer):
            def forward(self, x):
                return super().forward(x, x)

        x, other = zoo.numbers(1, 6, 8), zoo.numbers(1, 6, 8, seed=3)
        assert captured(Own(), x)[0].site.kind == "self"
        assert captured(Outer(), x, other)[0].site.kind == "cross"
