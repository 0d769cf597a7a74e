"""The context manager: what it keeps, what it refuses, and that it leaves no trace."""

import copy
import gc
import weakref

import pytest
import torch
from tests.capturing.modules import (
    Attending,
    HiddenAttention,
    Layers,
    sequence,
)
from torch import nn
from torch.nn import functional
from torch.overrides import _get_current_function_mode_stack

from attnchain.capturing import DenseRecord, TokenGrid, capture
from attnchain.errors import (
    ArgumentError,
    CaptureBudgetError,
    GridError,
    NothingCapturedError,
    SiteNotFoundError,
    UnreadAttentionWarning,
    UnsupportedModelError,
)
from attnchain.testing.models import TinyModel, diffusion, text, vision

X = sequence(2, 3, 5, 8)
BYTES = 2 * X.nbytes


def captured(model, *args, **options):
    with capture(model, **options) as attention:
        model(*args)
    return attention


def assert_untouched(model):
    assert _get_current_function_mode_stack() == []
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


class TestLeavesNoTrace:
    @pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt()], ids=repr)
    def test_after_an_exception_in_the_model(self, error):
        model = Layers(stop_after=error)
        with pytest.raises(type(error)) as caught, capture(model):
            model(X)
        assert caught.value is error
        assert_untouched(model)

    def test_after_an_exception_in_the_block(self):
        model = Layers()

        def run():
            with capture(model):
                model(X)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            run()
        assert_untouched(model)

    def test_after_an_error_of_ours(self):
        model = Layers()
        with pytest.raises(CaptureBudgetError), capture(model, max_bytes=1):
            model(X)
        assert_untouched(model)

    def test_the_users_own_hooks_stay(self):
        model, calls = Layers(), []
        model.register_forward_hook(lambda *_: calls.append(1))
        captured(model, X)
        assert len(model._forward_hooks) == len(calls) == 1

    def test_an_eager_model_is_eager_again(self):
        tiny = vision.dinov2()
        tiny.model.set_attn_implementation("eager")
        with capture(tiny.model) as attention:
            tiny.run()
        assert tiny.model.config._attn_implementation == "eager"
        expected = tiny.run(output_attentions=True).attentions
        for record, matrix in zip(attention, expected, strict=True):
            torch.testing.assert_close(
                record.probabilities(), matrix, atol=1e-5, rtol=0
            )

    def test_weights_asked_of_an_eager_model_are_missing_inside(self):
        tiny = vision.dinov2()
        tiny.model.set_attn_implementation("eager")
        with capture(tiny.model):
            inside = tiny.run(output_attentions=True)
        assert not any(weights is not None for weights in inside.attentions or ())
        assert tiny.run(output_attentions=True).attentions[0] is not None

    def test_an_eager_part_is_eager_again(self):
        tiny = text.whisper()
        tiny.model.encoder.set_attn_implementation("eager")
        tiny.model.encoder.config = copy.copy(tiny.model.encoder.config)
        configs = [tiny.model.config, tiny.model.encoder.config]
        before = [config._attn_implementation for config in configs]
        with capture(tiny.model):
            tiny.run()
        assert [config._attn_implementation for config in configs] == before

    def test_memory_is_released_with_the_result(self):
        model = Layers()
        attention = captured(model, X)
        record = weakref.ref(attention[0])
        queries = weakref.ref(attention[0].q)
        gc.disable()
        try:
            del attention
            assert record() is None
            assert queries() is None
        finally:
            gc.enable()


class TestWhatIsKept:
    def test_names_layers_and_order(self):
        attention = captured(Layers(), X)
        assert [r.site.name for r in attention] == [f"layers.{i}" for i in range(4)]
        assert [r.site.layer for r in attention] == [0, 1, 2, 3]
        assert attention.n_layers == {"self": 4}
        assert attention.nbytes == 4 * BYTES

    def test_a_module_used_again_is_another_layer(self):
        attention = captured(Layers(2, times=3), X)
        assert [r.site.layer for r in attention] == [0, 1, 2, 3, 4, 5]
        assert attention[1].site.name == attention[2].site.name == "layers.0"

    def test_a_second_forward_pass_has_the_same_layers(self):
        model = Layers(2)
        with capture(model) as attention:
            model(X)
            model(X)
        sites = [(r.site.forward, r.site.layer) for r in attention]
        assert sites == [(0, 0), (0, 1), (1, 0), (1, 1)]

    def test_a_pass_that_failed_does_not_shift_the_next(self):
        model = Layers(2, stop_after=ValueError("stop"))
        with capture(model) as attention:
            with pytest.raises(ValueError, match="stop"):
                model(X)
            model.stop_after = None
            model(X)
        assert [r.site.layer for r in attention] == [0, 1, 0, 1]

    def test_attention_outside_the_model_is_not_captured(self):
        model, other = Layers(2), Attending()
        with capture(model) as attention:
            other(X, X, X)
            model(X)
            functional.scaled_dot_product_attention(X, X, X)
        assert len(attention) == 2

    def test_part_of_a_model(self):
        model = Layers(3)
        with capture(model.layers[1]) as attention:
            model(X)
        assert [r.site.name for r in attention] == [""]

    def test_one_capture_inside_another(self):
        model = Layers(2)
        with capture(model) as outer, capture(model.layers[0]) as inner:
            model(X)
        assert (len(outer), len(inner)) == (2, 1)

    @pytest.mark.parametrize(
        "layers", [0, 3, -1, -4, [1, 2], [-1, 0], (-2, -3), range(2)], ids=str
    )
    def test_chosen_layers_only(self, layers):
        numbers = [layers] if isinstance(layers, int) else layers
        expected = sorted(n % 4 for n in numbers)
        attention = captured(Layers(), X, layers=layers)
        assert [r.site.layer for r in attention] == expected
        assert attention.n_layers == {"self": 4}

    def test_layers_from_the_end_are_let_go_on_the_way(self):
        """The budget holds two records: more are never held at once."""
        attention = captured(Layers(20), X, layers=[-1, -2], max_bytes=3 * BYTES)
        assert [r.site.layer for r in attention] == [18, 19]

    def test_chosen_names_kinds_and_resolutions(self):
        tiny = diffusion.sd_unet()
        options = {"name": "up_blocks.1.*attn1", "kind": "self", "resolution": (8, 12)}
        with capture(tiny.model, **options) as attention:
            tiny.run()
        assert [r.site.layer for r in attention] == [5, 6]

    def test_dense_matrices(self):
        plain = captured(Layers(), X)
        dense = captured(Layers(), X, keep="dense")
        for record, kept in zip(plain, dense, strict=True):
            assert isinstance(kept, DenseRecord)
            assert torch.equal(kept.probabilities(), record.probabilities())
            assert kept.transition(heads=1).batch_shape == (2,)
            expected = record.transition().to_dense()
            torch.testing.assert_close(kept.transition().to_dense(), expected)

    def test_the_mean_over_heads(self):
        plain = captured(Layers(), X)
        mean = captured(Layers(), X, keep="mean")
        for record, kept in zip(plain, mean, strict=True):
            expected = record.probabilities().mean(1, keepdim=True)
            torch.testing.assert_close(kept.probabilities(), expected)
            assert kept.transition().batch_shape == (2, 1)

    @pytest.mark.parametrize("keep", ["qk", "dense", "mean"])
    def test_kept_on_another_device(self, keep):
        attention = captured(Layers(), X, device="meta", keep=keep)
        record = attention[0]
        kept = record.matrix if keep != "qk" else record.q
        assert kept.device.type == "meta"

    def test_an_unknown_form_is_refused(self):
        with pytest.raises(ArgumentError, match="keep must be"), capture(X, keep="all"):
            pass

    @pytest.mark.parametrize("keep", ["qk", "dense", "mean"])
    def test_the_budget_is_exact(self, keep):
        need = captured(Layers(), X, keep=keep).nbytes
        captured(Layers(), X, keep=keep, max_bytes=need)
        with pytest.raises(CaptureBudgetError, match="3 records held") as caught:
            captured(Layers(), X, keep=keep, max_bytes=need - 1)
        assert "self layer 3 (layers.3)" in str(caught.value)


class TestWhatIsRefused:
    def test_a_model_that_was_not_run(self):
        with pytest.raises(NothingCapturedError, match="not run"), capture(Layers()):
            pass

    def test_a_model_without_attention(self):
        with pytest.raises(NothingCapturedError, match="never called"):
            captured(nn.Linear(8, 8), X)

    def test_softmax_elsewhere_is_not_attention(self):
        model = nn.Sequential(Layers(1), nn.Softmax(-1))
        assert len(captured(model, X)) == 1

    def test_attention_by_hand_that_cannot_be_followed_is_told(self):
        model = nn.Sequential(Layers(1), HiddenAttention())
        with pytest.warns(UnreadAttentionWarning, match=r"by hand in 1, .* missing"):
            attention = captured(model, X)
        assert [r.site.name for r in attention] == ["0.layers.0"]

    def test_only_attention_that_cannot_be_followed_is_refused(self):
        model = nn.Sequential(HiddenAttention())
        with pytest.raises(UnsupportedModelError, match="by hand in 0,"):
            captured(model, X)

    def test_it_may_be_left_out_by_name(self):
        model = nn.Sequential(Layers(1), HiddenAttention())
        assert len(captured(model, X, name="0.*")) == 1

    @pytest.mark.parametrize("backend", ["flash", "sage", "flex", "_flash_3"])
    def test_diffusers_backends(self, backend):
        tiny = diffusion.flux_transformer()
        block = tiny.model.single_transformer_blocks[0]
        block.attn.processor._attention_backend = backend
        with pytest.raises(UnsupportedModelError, match="'native'"):
            captured(tiny.model)

    @pytest.mark.parametrize("name", ["flash_attention_2", "flex_attention"])
    def test_transformers_kernels(self, name):
        tiny = vision.dinov2()
        tiny.model.config._attn_implementation_internal = name
        with pytest.raises(UnsupportedModelError, match="'sdpa'"):
            captured(tiny.model)

    @pytest.mark.filterwarnings("ignore:.*flex_attention called without")
    def test_flex_attention(self):
        from torch.nn.attention.flex_attention import flex_attention

        class Flexible(nn.Module):
            def forward(self, x):
                return flex_attention(x, x, x)

        model = nn.Sequential(Flexible())
        with pytest.raises(UnsupportedModelError, match="0 calls flex_attention"):
            captured(model, sequence(1, 2, 16, 16))

    def test_flash_attention_operator(self):
        library = torch.library.Library("attnchain_test", "FRAGMENT")
        library.define("_flash_attn_forward(Tensor q) -> Tensor")
        library.impl("_flash_attn_forward", lambda q: q, "CPU")

        class Flash(nn.Module):
            def forward(self, x):
                return torch.ops.attnchain_test._flash_attn_forward(x)

        with pytest.raises(UnsupportedModelError, match="_flash_attn_forward"):
            captured(nn.Sequential(Flash()), X)

    @pytest.mark.filterwarnings("ignore:`torch.jit")
    def test_a_scripted_model(self):
        model = nn.Sequential(torch.jit.trace(nn.Linear(8, 8), X))
        with pytest.raises(UnsupportedModelError, match="scripted"):
            captured(model, X)

    def test_layers_that_do_not_exist(self):
        with pytest.raises(SiteNotFoundError, match="4 self") as caught:
            captured(Layers(), X, layers=4)
        assert "layers.3" in str(caught.value)

    @pytest.mark.parametrize("word", ["kind", "branch"])
    def test_unknown_words(self, word):
        with pytest.raises(ArgumentError, match=f"{word} must be one of"):
            captured(Layers(), X, **{word: "other"})

    def test_an_unknown_keyword(self):
        with pytest.raises(ArgumentError, match="layer"):
            captured(Layers(), X, layer=3)

    def test_a_resolution_where_the_grid_is_not_known(self):
        with pytest.raises(GridError, match="not known"):
            captured(Layers(), X, resolution=(1, 5))

    def test_a_resolution_with_a_grid_by_hand(self):
        options = {"resolution": (1, 5), "grid": TokenGrid(1, 5)}
        assert len(captured(Layers(), X, **options)) == 4


@pytest.mark.parametrize("compiled", ["wrapped", "in place", "part"])
def test_a_compiled_model_runs_uncompiled(compiled):
    model = Layers(2)
    if compiled == "wrapped":
        used = torch.compile(model, backend="eager")
    else:
        used = model
        (model if compiled == "in place" else model.layers[0]).compile(backend="eager")
    with torch.no_grad():
        plain = used(X)
        attention = captured(used, X)
        assert torch.equal(used(X), plain)
    assert [r.site.name for r in attention] == ["layers.0", "layers.1"]
    expected = captured(Layers(2), X)
    assert torch.equal(attention[1].q, expected[1].q)


def test_decoding_with_a_cache_is_self_attention_but_no_chain():
    tiny = text.llama()
    tiny.model.config.use_cache = True
    with capture(tiny.model) as attention, torch.no_grad():
        first = tiny.model(**tiny.kwargs, use_cache=True)
        tiny.model(
            input_ids=torch.ones(2, 1, dtype=torch.long),
            past_key_values=first.past_key_values,
        )
    assert [r.site.kind for r in attention] == ["self"] * 4
    assert [r.site.layer for r in attention] == [0, 1, 0, 1]
    assert attention[3].shape == (2, 4, 1, 8)
    assert attention[1].shape == (2, 4, 7, 7)


def test_encode_methods_beside_forward():
    tiny = vision.open_clip()
    with capture(tiny.model) as attention, torch.no_grad():
        tiny.model.encode_image(tiny.args[0])
        tiny.model.encode_text(tiny.args[1])
    assert str(attention[0].grid) == "1 special + 4 x 6 patches"
    assert str(attention[-1].grid) == "7 text"


def test_a_pooling_head_is_cross_attention_beside_the_chain():
    from transformers import SiglipVisionConfig, SiglipVisionModel

    tiny = vision.siglip_vision()
    config = SiglipVisionConfig(**vision.SIZES, vision_use_head=True)
    tiny = TinyModel.of(SiglipVisionModel(config), **tiny.kwargs)
    with capture(tiny.model) as attention:
        tiny.run()
    assert attention.n_layers == {"self": 2, "cross": 1}
    assert attention.grid == attention[-1].key_grid == TokenGrid(4, 4)
    assert attention[-1].shape == (2, 2, 1, 16)


def test_meta_tensors_need_no_memory():
    """Shapes of a large model can be looked at without running it."""
    model = Layers(2)
    attention = captured(model, torch.empty(1, 12, 1000, 64, device="meta"))
    assert attention[0].shape == (1, 12, 1000, 1000)
