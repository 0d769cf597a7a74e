"""Scores of keys against dense float64, and the press inside kvpress itself.

kvpress wants an older transformers than the rest of this suite: its tests run in an
environment of their own, as docs/language.md says, and are skipped elsewhere.
"""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from tests.capturing import zoo

from attnchain.errors import (
    ArgumentError,
    MissingExtraError,
    ShapeError,
    UnsupportedModelError,
)
from attnchain.language import key_scores, token_rank_press

SCORES = ["received", "column_sum", "token_rank"]
needs_kvpress = pytest.mark.skipif(
    find_spec("kvpress") is None,
    reason="kvpress needs transformers < 5.3, an environment of its own",
)


def expected(matrix, by):
    """The score of each key from one dense head, float64."""
    n = len(matrix)
    if by == "column_sum":
        return matrix.sum(0)
    if by == "received":
        return matrix.sum(0) / np.arange(n, 0, -1)
    rest = matrix[1:, 1:] / matrix[1:, 1:].sum(1, keepdims=True)
    jump = np.full(n - 1, 0.15 / (n - 1))
    return np.append(0, np.linalg.solve(np.eye(n - 1) - 0.85 * rest.T, jump))


def softmax(scores):
    shown = np.exp(scores - scores.max(-1, keepdims=True))
    return shown / shown.sum(-1, keepdims=True)


@pytest.mark.parametrize("by", SCORES)
@pytest.mark.parametrize("groups", [1, 3])
def test_key_scores_are_those_of_dense_matrices(by, groups):
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 2 * groups, 12, 4, generator=generator)
    k = torch.randn(2, 2, 12, 4, generator=generator)
    found = key_scores(q, k, scale=1.3, by=by)
    assert found.shape == (2, 2, 12)
    hidden = np.triu(np.full((12, 12), -np.inf), 1)
    for text in range(2):
        for key_head in range(2):
            heads = [
                softmax(1.3 * q[text, key_head * groups + g].double().numpy()
                        @ k[text, key_head].double().numpy().T + hidden)
                for g in range(groups)
            ]  # fmt: skip
            own = np.mean([expected(head, by) for head in heads], 0)
            np.testing.assert_allclose(found[text, key_head], own, atol=2e-6)


def test_keys_of_a_cache_are_no_whole_prompt():
    with pytest.raises(ShapeError, match="9 keys and 3 queries"):
        key_scores(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 9, 4), scale=1.0)


def test_a_single_token_is_kept():
    one = torch.zeros(1, 1, 1, 4)
    assert key_scores(one, one, scale=1.0, by="token_rank").tolist() == [[[0]]]


def test_options_are_checked():
    with pytest.raises(ArgumentError, match="by must be"):
        token_rank_press(by="rank")
    with pytest.raises(ArgumentError, match="damping"):
        token_rank_press(damping=1.5)
    with pytest.raises(ArgumentError, match="first"):
        token_rank_press(first=-1)


@pytest.mark.skipif(find_spec("kvpress") is not None, reason="kvpress is installed")
def test_what_is_missing_is_said():
    with pytest.raises(MissingExtraError, match=r"attnchain\[kvpress\]"):
        token_rank_press(0.5)


# Inside kvpress


def tiny(attention="sdpa", kind="Llama", **options):
    import transformers

    torch.manual_seed(1)
    given = zoo.TEXT | {"attn_implementation": attention, "initializer_range": 0.5}
    config = getattr(transformers, f"{kind}Config")(**given | options)
    return getattr(transformers, f"{kind}ForCausalLM")(config).eval()


IDS = torch.randint(3, 50, (2, 20), generator=torch.Generator().manual_seed(0))


def pressed(model, press):
    """The cache after the prompt."""
    from transformers import DynamicCache

    with torch.no_grad(), press(model):
        return model(IDS, past_key_values=DynamicCache()).past_key_values


@needs_kvpress
@pytest.mark.parametrize("kind", ["Llama", "Qwen3", "Phi3"])
@pytest.mark.parametrize("by", SCORES)
def test_the_keys_that_are_kept_score_highest(by, kind):
    """By the model's own eager attention; keys and values are those of a whole run."""
    options = {"head_dim": 8} if kind == "Qwen3" else {}
    model = tiny(kind=kind, **options)
    eager = tiny("eager", kind, **options)
    whole = pressed(model, token_rank_press(0.0, by=by))
    cache = pressed(model, token_rank_press(0.5, by=by, first=2))
    with torch.no_grad():
        matrices = eager(IDS, output_attentions=True).attentions
    for layer, heads in enumerate(matrices):
        for text in range(2):
            for key_head in range(2):
                own = [
                    expected(heads[text, 2 * key_head + g].double().numpy(), by)
                    for g in range(2)
                ]
                scores = np.mean(own, 0)
                scores[:2] = np.inf
                kept = np.argsort(-scores)[:10]
                for name in ("keys", "values"):
                    every = getattr(whole.layers[layer], name)[text, key_head]
                    found = getattr(cache.layers[layer], name)[text, key_head]
                    assert found.shape[0] == 10
                    assert {tuple(row) for row in found.tolist()} == {
                        tuple(row) for row in every[torch.tensor(kept)].tolist()
                    }


@needs_kvpress
@pytest.mark.parametrize("ratio", [0.2, 0.4, 0.6, 0.8])
def test_kvpress_own_press_of_eager_attention_keeps_the_same(ratio):
    import kvpress

    own = pressed(tiny("eager"), kvpress.ObservedAttentionPress(ratio))
    ours = pressed(tiny(), token_rank_press(ratio, by="received", first=0))
    for expected_layer, layer in zip(own.layers, ours.layers, strict=True):
        assert layer.keys.shape[2] == int(20 * (1 - ratio))
        torch.testing.assert_close(
            layer.keys.sort(2).values, expected_layer.keys.sort(2).values
        )


@needs_kvpress
@pytest.mark.parametrize("wrapper", ["AdaKVPress", "KeyRerotationPress"])
def test_other_presses_of_kvpress_take_it(wrapper):
    import kvpress

    model = tiny()
    cache = pressed(model, getattr(kvpress, wrapper)(press=token_rank_press(0.5)))
    lengths = {layer.keys.shape[2] for layer in cache.layers}
    assert lengths == {20 if wrapper == "AdaKVPress" else 10}
    out = model(IDS[:, :1], past_key_values=cache).logits
    assert bool(out.isfinite().all())


@needs_kvpress
def test_a_part_of_a_prompt_is_refused():
    import kvpress

    press = kvpress.ChunkPress(press=token_rank_press(0.5), chunk_length=10)
    with pytest.raises(ShapeError, match=r"10 tokens .*positions of 20.*ChunkPress"):
        pressed(tiny(), press)


@needs_kvpress
def test_hooks_are_gone_and_short_prompts_keep_something():
    model = tiny()
    for length in (1, 2, 3):
        with torch.no_grad(), token_rank_press(0.8)(model):
            out = model(IDS[:, :length], use_cache=True)
        assert out.past_key_values.layers[0].keys.shape[2] == 1
    assert not any(layer.self_attn._forward_hooks for layer in model.model.layers)


@needs_kvpress
def test_a_window_is_not_scored_as_if_it_were_none():
    model = tiny(kind="Mistral", sliding_window=8)
    with pytest.raises(UnsupportedModelError, match="8 tokens back"):
        pressed(model, token_rank_press(0.5))
