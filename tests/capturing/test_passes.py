"""Which forward pass of which thread is running, whatever happened before."""

from threading import Thread

import pytest
import torch
from tests.capturing.modules import Layers, sequence
from torch import nn

from attnchain.capturing import capture
from attnchain.errors import NothingCapturedError, ShapeError, SiteNotFoundError
from attnchain.testing.models import text, vision

X = sequence(2, 3, 5, 8)
BYTES = 2 * X.nbytes


def run(thread):
    thread.start()
    thread.join()


def places(attention):
    return [(r.site.forward, r.site.layer, r.site.name) for r in attention]


class TestThreads:
    def test_a_model_that_runs_in_another_thread_too(self):
        model = Layers(3)

        def run():
            for _ in range(30):
                model(X)

        other = Thread(target=run)
        with capture(model) as attention:
            other.start()
            for _ in range(30):
                model(X)
            other.join()
        one_pass = [(layer, f"layers.{layer}") for layer in range(3)]
        expected = [(n, *place) for n in range(30) for place in one_pass]
        assert places(attention) == expected

    def test_a_model_that_runs_in_another_thread_only(self):
        model = Layers(1)
        other = Thread(target=model, args=(X,))
        with pytest.raises(NothingCapturedError, match="thread"), capture(model):
            run(other)


class TestInterruptions:
    EXPECTED = ((0, "layers.0"), (1, "layers.1"))

    def stopped_then_run(self, register, error):
        """Stops a pass by a hook of the second layer, then runs another."""
        model = Layers(2)

        def stop(*_):
            raise error

        hook = getattr(model.layers[1], register)(stop)
        with capture(model) as attention:
            with pytest.raises(type(error)):
                model(X)
            hook.remove()
            model(X)
        return [(layer, name) for n, layer, name in places(attention) if n == 1]

    @pytest.mark.parametrize(
        "register", ["register_forward_pre_hook", "register_forward_hook"]
    )
    @pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt()], ids=repr)
    def test_a_pass_stopped_by_a_hook(self, register, error):
        assert tuple(self.stopped_then_run(register, error)) == self.EXPECTED


class TestPasses:
    @pytest.mark.parametrize(
        ("forwards", "kept"),
        [(0, [0]), (-1, [3]), ([0, -2], [0, 2]), (range(2), [0, 1])],
    )
    def test_chosen_passes_only(self, forwards, kept):
        model = Layers(1)
        with capture(model, forwards=forwards) as attention:
            for _ in range(4):
                model(X)
        assert [r.site.forward for r in attention] == kept
        assert attention.n_forwards == 4

    def test_passes_from_the_end_are_let_go_on_the_way(self):
        model = Layers(2)
        with capture(model, forwards=-1, max_bytes=4 * BYTES) as attention:
            for _ in range(20):
                model(X)
        assert [r.site.forward for r in attention] == [19, 19]

    def test_passes_that_do_not_exist(self):
        model = Layers(1)
        with (
            pytest.raises(SiteNotFoundError, match="fits forwards=1;"),
            capture(model, forwards=1),
        ):
            model(X)

    def test_the_prompt_of_generate_is_pass_0(self):
        from transformers import LlamaForCausalLM

        config = text.llama().model.config
        model = LlamaForCausalLM(config).eval()
        prompt = torch.randint(3, 20, (1, 6))
        options = {"max_new_tokens": 3, "do_sample": False, "use_cache": True}
        with capture(model) as attention:
            model.generate(prompt, eos_token_id=None, pad_token_id=0, **options)
        assert attention.n_forwards == 3
        assert attention.select(layers=0, forwards=0).n_states == 6
        with pytest.raises(ShapeError, match="forwards=0"):
            attention.select(layers=0, forwards=1)

    def test_parts_run_one_by_one_are_one_pass(self):
        model = Layers(2)
        with capture(model) as attention:
            for _ in range(2):
                for layer in model.layers:
                    layer(X, X, X)
            model(X)
        expected = [(n, i, f"layers.{i}") for n in range(3) for i in range(2)]
        assert places(attention) == expected

    def test_a_part_run_before_the_whole_is_a_pass_of_its_own(self):
        model = nn.Sequential(Layers(1), Layers(1))
        with capture(model) as attention:
            model[0].layers[0](X, X, X)
            model[0](X)
            model[1](X)
        assert places(attention) == [
            (0, 0, "0.layers.0"),
            (1, 0, "0.layers.0"),
            (1, 1, "1.layers.0"),
        ]

    @pytest.mark.parametrize("build", [vision.timm_vit, vision.timm_eva])
    def test_features_of_timm_have_the_grid_of_the_model(self, build):
        tiny = build()
        with capture(tiny.model) as whole, torch.no_grad():
            tiny.run()
        with capture(tiny.model) as features, torch.no_grad():
            tiny.model.forward_features(*tiny.args)
        assert places(features) == places(whole)
        assert features.grid == whole.grid
