"""Pruned vision transformers against masked ones; scores against closed forms."""

import networkx as nx
import numpy as np
import pytest
import torch
from torch.nn import functional

from attnchain.capturing import capture, replaced_attention
from attnchain.errors import (
    ArgumentError,
    NothingCapturedError,
    ShapeError,
    UnsupportedModelError,
)
from attnchain.methods import (
    AbstractTokenScore,
    ClassRowScore,
    ColumnSumScore,
    LayerReading,
    RandomScore,
    TokenRankScore,
    ZeroTPruneScore,
    prune,
)
from attnchain.testing.models import importable_torchvision, text, vision

importable_torchvision()

PREFIXES = {
    "vit": 1,
    "dinov2": 1,
    "dinov2_with_registers": 5,
    "deit": 2,
    "clip_vision": 1,
    "siglip_vision": 0,
    "timm_vit": 5,
    "timm_deit": 2,
}
SCORES = (
    ColumnSumScore(),
    TokenRankScore(),
    TokenRankScore("outgoing"),
    ZeroTPruneScore(),
    RandomScore(),
)


def built(name):
    return getattr(vision, name)()


def tokens_of(tiny):
    """The tokens after the last layer, whatever is made of them."""
    if not hasattr(tiny.model, "forward_features"):
        return tiny.run().last_hidden_state
    found = []
    hook = tiny.model.norm.register_forward_hook(lambda *call: found.append(call[2]))
    tiny.run()
    hook.remove()
    return found[0]


def masked_tokens(tiny, kept, prefix):
    """All tokens, where none sees those that were dropped after the first layer."""
    seen = torch.zeros(len(kept), kept.max() + prefix + 999, dtype=torch.bool)
    seen[:, :prefix] = True
    seen.scatter_(1, kept + prefix, value=True)

    def attend(query, key, value, scale=None):
        mask = seen[:, None, None, : key.shape[2]]
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scale
        )

    with replaced_attention(tiny.model, attend, layers=[1]), torch.no_grad():
        whole = tokens_of(tiny)
    return torch.stack(
        [row[own[: len(row)]] for row, own in zip(whole, seen, strict=True)]
    )


@pytest.mark.parametrize("name", PREFIXES)
@torch.no_grad()
def test_pruned_models_are_models_that_do_not_see_the_dropped(name):
    tiny, prefix = built(name), PREFIXES[name]
    widths = []
    layers = [m for m in tiny.model.modules() if hasattr(m, "mlp")]
    hook = layers[-1].mlp.register_forward_pre_hook(
        lambda _, args: widths.append(args[0].shape[1])
    )
    for score in SCORES:
        with prune(tiny.model, layer=0, keep=0.4, score=score) as pruned:
            found = tokens_of(tiny)
        count = pruned.kept.shape[1]
        assert found.shape[1] == widths[-1] == prefix + count
        expected = masked_tokens(tiny, pruned.kept, prefix)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    hook.remove()


@pytest.mark.parametrize("name", ["vit", "timm_deit"])
def test_nothing_is_left_behind(name):
    tiny = built(name)
    before = tokens_of(tiny)
    with prune(tiny.model, layer=0, keep=0.5, score=ColumnSumScore()):
        tokens_of(tiny)

    class Failing(ColumnSumScore):
        def of(self, reading):
            raise KeyError("a mistake in a score")

    with pytest.raises(KeyError), prune(tiny.model, layer=0, keep=0.5, score=Failing()):
        tokens_of(tiny)
    torch.testing.assert_close(tokens_of(tiny), before, atol=0, rtol=0)
    assert all("forward" not in vars(m) for m in tiny.model.modules())


def test_what_is_kept_is_what_the_score_of_the_running_layer_says():
    tiny = built("dinov2")
    with capture(tiny.model) as attention:
        tiny.run()
    sums = attention[0].probabilities().mean((1, 2))[:, 1:]
    with prune(tiny.model, layer=0, keep=0.25, score=ColumnSumScore()) as pruned:
        tiny.run()
    torch.testing.assert_close(pruned.kept, sums.topk(6).indices.sort().values)


def test_eager_models_are_pruned_the_same_way_and_stay_eager():
    tiny = built("vit")
    found = []
    for kind in ("sdpa", "eager"):
        tiny.model.set_attn_implementation(kind)
        with prune(tiny.model, layer=0, keep=0.5, score=ZeroTPruneScore()):
            found.append(tokens_of(tiny))
    torch.testing.assert_close(*found)
    assert tiny.model.config._attn_implementation == "eager"


def test_layers_prune_one_after_another_and_gradients_pass():
    from transformers import ViTConfig, ViTModel

    sizes = vision.SIZES | {"num_hidden_layers": 4}
    model = ViTModel(ViTConfig(**sizes))
    pixels = torch.randn(2, 3, 32, 32, requires_grad=True)
    half = ColumnSumScore()
    with (
        prune(model, layer=0, keep=0.5, score=half) as first,
        prune(model, layer=2, keep=0.5, score=half) as second,
    ):
        states = model(pixels, output_hidden_states=True).hidden_states
    assert [s.shape[1] for s in states] == [17, 9, 9, 5, 5]
    assert first.kept.shape == (2, 8)
    assert int(second.kept.max()) < 8
    states[-1].sum().backward()
    assert float(pixels.grad.abs().sum()) > 0


def reading(n=9, heads=3, prefix=1, seed=0, peaks=2.0):
    generator = torch.Generator().manual_seed(seed)
    scores = peaks * torch.randn(2, heads, n, n, generator=generator).double()
    keys = torch.randn(2, heads, n, 4, generator=generator).double()
    return LayerReading(scores.softmax(-1), keys, prefix)


def test_incoming_rank_is_networkx_pagerank():
    given = reading()
    graph = nx.from_numpy_array(
        given.attention.mean(1)[0].numpy(), create_using=nx.DiGraph
    )
    expected = nx.pagerank(graph, alpha=0.85, tol=1e-12)
    found = TokenRankScore(damping=0.85).of(given)[0]
    np.testing.assert_allclose(found, list(expected.values()), atol=1e-4)


def test_outgoing_rank_is_that_of_columns():
    given = reading()
    matrix = 0.99 * given.attention.mean(1)[1] + 0.01 / 9
    matrix = (matrix / matrix.sum(0)).T.numpy()
    values, vectors = np.linalg.eig(matrix.T)
    expected = np.real(vectors[:, np.argmax(np.real(values))])
    found = TokenRankScore("outgoing").of(given)[1]
    np.testing.assert_allclose(found, expected / expected.sum(), atol=1e-4)


def zero_tprune_in_loops(given, count, rounds, alike, most):
    """The paper's two steps, picture by picture and head by head."""
    kept = []
    for heads, keys in zip(given.attention.numpy(), given.keys.numpy(), strict=True):

        def votes(rounds, heads=heads):
            n = heads.shape[-1]
            found = [
                np.full(n, 1 / n) @ np.linalg.matrix_power(p, rounds) for p in heads
            ]
            fitting = [s for s in found if 0.01 <= np.var(n * s) <= most]
            chosen = np.array(fitting or found)
            return np.sqrt((chosen**2).mean(0))[given.prefix :]

        own = keys[:, given.prefix :].transpose(1, 0, 2).reshape(len(votes(1)), -1)
        order = np.argsort(votes(1), kind="stable")
        low, high = order[: len(order) // 2], order[len(order) // 2 :]
        closest = {
            i: max(
                own[i] @ own[j] / np.linalg.norm(own[i]) / np.linalg.norm(own[j])
                for j in high
            )
            for i in low
        }
        leaving = sorted(low, key=closest.get, reverse=True)
        gone = leaving[: round(alike * (len(order) - count))]
        stay = [i for i in range(len(order)) if i not in gone]
        kept.append(sorted(sorted(stay, key=votes(rounds).__getitem__)[-count:]))
    return torch.tensor(np.array(kept))


@pytest.mark.parametrize("alike", [0.0, 0.3, 0.5])
@pytest.mark.parametrize("most", [0.7, 0.011])
def test_zero_tprune_is_its_two_steps(alike, most):
    for seed in range(5):
        given = reading(n=17, seed=seed)
        score = ZeroTPruneScore(rounds=4, alike=alike, most=most)
        expected = zero_tprune_in_loops(given, 5, 4, alike, most)
        torch.testing.assert_close(score.kept(given, 5), expected)


def test_likeness_drops_copies_that_votes_would_keep():
    given = reading(n=11, prefix=1)
    votes = ZeroTPruneScore(rounds=1, alike=0.0)
    order = votes.of(given)[0, 1:].argsort()
    copied, original = int(order[4]) + 1, int(order[-1]) + 1
    given.keys[0, :, copied] = given.keys[0, :, original]
    assert copied - 1 in votes.kept(given, 8)[0]
    assert copied - 1 not in ZeroTPruneScore(rounds=1).kept(given, 8)[0]


def test_random_scores_follow_their_seed_and_go_on():
    given = reading()
    one, other = RandomScore(3), RandomScore(3)
    first = one.of(given)
    assert torch.equal(first, other.of(given))
    assert not torch.equal(first, one.of(given))


def test_a_class_row_needs_a_class_token():
    tiny = built("siglip_vision")
    with (
        pytest.raises(ArgumentError, match="class token"),
        prune(tiny.model, layer=0, keep=0.5, score=ClassRowScore()),
    ):
        tiny.run()
    given = reading()
    expected = given.attention[:, :, 0].mean(1)
    torch.testing.assert_close(ClassRowScore().of(given), expected)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"layer": 1}, "layer must lie in 0..0"),
        ({"layer": -1}, "layer"),
        ({"keep": 0}, "keep must lie"),
        ({"keep": 1.5}, "keep must lie"),
        ({"score": "random"}, "AbstractTokenScore"),
    ],
)
def test_wrong_arguments_are_refused_before_the_model_runs(options, match):
    given = {"layer": 0, "keep": 0.5, "score": ColumnSumScore()} | options
    with pytest.raises(ArgumentError, match=match), prune(built("vit").model, **given):
        pass


def test_what_cannot_be_pruned_is_refused():
    others = [vision.swin(), vision.dinov3(), vision.timm_eva(), text.clip_text()]
    for tiny in others:
        with (
            pytest.raises(UnsupportedModelError, match="0 stacks"),
            prune(tiny.model, layer=0, keep=0.5, score=ColumnSumScore()),
        ):
            pass
    two = torch.nn.ModuleList([built("vit").model, built("deit").model])
    with (
        pytest.raises(UnsupportedModelError, match="2 stacks"),
        prune(two, layer=0, keep=0.5, score=ColumnSumScore()),
    ):
        pass


def test_models_that_need_the_grid_are_refused():
    from transformers import Dinov2Backbone, Dinov2Config

    model = Dinov2Backbone(Dinov2Config(**vision.SIZES))
    with (
        pytest.raises(UnsupportedModelError, match="grid"),
        prune(model, layer=0, keep=0.5, score=ColumnSumScore()),
    ):
        pass


def test_mistakes_while_it_runs_are_named():
    tiny = built("vit")
    options = {"layer": 0, "score": ColumnSumScore()}
    with pytest.raises(NothingCapturedError), prune(tiny.model, keep=0.5, **options):
        pass
    with (
        pytest.raises(ArgumentError, match="none"),
        prune(tiny.model, keep=0.02, **options),
    ):
        tiny.run()
    with (
        pytest.raises(ArgumentError, match="pruned already"),
        prune(tiny.model, keep=0.5, **options),
        prune(tiny.model, keep=0.5, **options),
    ):
        tiny.run()

    class Greedy(AbstractTokenScore):
        def of(self, reading):
            return reading.attention.mean((1, 2))

        def kept(self, reading, count):
            return super().kept(reading, count + 1)

    with (
        pytest.raises(ShapeError, match="asked for"),
        prune(tiny.model, layer=0, keep=0.5, score=Greedy()),
    ):
        tiny.run()


@pytest.mark.parametrize(
    "options",
    [{"rounds": 0}, {"alike": 0.6}, {"alike": -0.1}, {"least": 1.0, "most": 0.5}],
)
def test_zero_tprune_refuses_numbers_out_of_range(options):
    with pytest.raises(ArgumentError):
        ZeroTPruneScore(**options)


def test_other_scores_refuse_too():
    with pytest.raises(ArgumentError, match="seed"):
        RandomScore(-1)
    with pytest.raises(ArgumentError, match="direction"):
        TokenRankScore("sideways")
    with pytest.raises(ArgumentError, match="damping"):
        TokenRankScore(damping=0)
