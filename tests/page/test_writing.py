"""Collected data and the written file, without a browser."""

import json
import re
from dataclasses import replace

import pytest
import torch

from attnchain.errors import GridError, OutputError, UnsupportedModelError
from attnchain.markov import metastable_sets, mix, second_eigenvalue
from attnchain.operators import AttentionTransition
from attnchain.page import collect, collecting, page_html, write_page, writing


def test_layers_are_the_attention_over_patches_alone(data, tiny, picture):
    pixels = tiny.pixels(picture, size=80)
    with torch.no_grad():
        attentions = tiny.model(pixels, output_attentions=False)
        tiny.model.set_attn_implementation("eager")
        attentions = tiny.model(pixels, output_attentions=True).attentions
        tiny.model.set_attn_implementation("sdpa")
    assert len(data.attention.heads) == 5
    for layer, whole in zip(data.attention.heads, attentions, strict=True):
        patches = whole[0, :, 1:, 1:]
        expected = patches / patches.sum(-1, keepdim=True)
        assert float((layer.to_dense() - expected).abs().max()) < 1e-5


def test_sets_are_those_of_the_lambda2_mixture_of_the_last_quarter(data):
    assert data.mixed_layers == (3, 4)
    mixture = mix(data.attention.heads[3:])
    for sets in data.sets:
        expected = metastable_sets(mixture, len(sets.prevalence))
        assert torch.allclose(sets.prevalence, expected.prevalence, atol=1e-3)
    assert data.proposed_sets == metastable_sets(mixture).coarse.shape[0]
    moduli = torch.stack(
        [second_eigenvalue(layer).modulus for layer in data.attention.heads]
    )
    assert torch.allclose(data.attention.lambda2, moduli, atol=1e-3)


def test_every_head_has_its_own_sets(data):
    for layer, row in zip(data.attention.heads, data.head_sets, strict=True):
        for head, sets in zip(layer.chains(), row, strict=True):
            expected = metastable_sets(head, max_count=8)
            assert torch.allclose(sets.prevalence, expected.prevalence, atol=1e-3)
            assert torch.equal(sets.labels, expected.labels)


def test_the_size_shrinks_where_heads_would_not_fit(tiny, picture, monkeypatch):
    whole = collect(tiny, picture)
    assert (whole.attention.grid.rows, whole.attention.grid.columns) == (22, 32)
    monkeypatch.setattr("attnchain.page.collecting.MAX_NUMBERS", 200_000)
    numbers = sum(
        2 * layer.q.numel() for layer in collect(tiny, picture).attention.heads
    )
    assert 50_000 < numbers < 250_000
    asked = collect(tiny, picture, size=160)
    assert asked.attention.grid.columns == 20


def test_one_patch_is_refused(tiny, picture):
    with pytest.raises(GridError, match="at least two patches"):
        collect(tiny, picture.resize((50, 50)), size=8)


def test_other_tokens_than_the_grid_says_are_refused(tiny, picture):
    with pytest.raises(UnsupportedModelError, match=r"71 tokens; .*over the 73 tokens"):
        collect(replace(tiny, prefix=3), picture, size=80)


def test_text_cannot_leave_its_place(data):
    text = page_html(data)
    assert "two &lt;halves&gt; &amp; &quot;noise&quot;.png" in text
    assert "<halves>" not in text
    assert "<of no worth>" not in text
    facts = re.search(r'id="facts">(.*?)</script>', text, re.DOTALL)
    assert json.loads(facts[1])["title"] == data.title


def test_only_a_served_page_may_connect(data):
    assert "connect-src" not in page_html(data)
    assert "connect-src 'self'" in page_html(data, served=True)


def test_the_file_names_no_address(page_file):
    text = re.sub(r"base64,[\w+/=]+", "", page_file.read_text("utf-8"))
    text = re.sub(r'(class="layer">)[^<]+', r"\1", text)
    assert not re.search(r"https?://|//\w+\.\w+/|\bsrc=\"(?!data:)", text)


def test_a_page_beyond_the_limit_is_not_written(data, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "MAX_BYTES", 1000)
    with pytest.raises(OutputError, match="smaller size"):
        write_page(tmp_path / "page.html", data)
    assert list(tmp_path.iterdir()) == []


def test_failing_to_write_leaves_nothing(data, tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        write_page(tmp_path / "missing" / "page.html", data)
    taken = tmp_path / "page.html"
    taken.mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        write_page(taken, data)
    assert list(tmp_path.iterdir()) == [taken]


def test_a_reducible_mixture_has_no_sets(data):
    q = 40 * torch.eye(8)[None].repeat(3, 1, 1)
    from attnchain.page.collecting import _head_sets, _sets

    apart = AttentionTransition(q, q, scale=1.0)
    assert _sets(mix(apart, "uniform")) == ((), None)
    assert _head_sets(apart) == (None,) * 3
    nearly = AttentionTransition(q, q / 40, scale=1.0)
    assert _head_sets(nearly) == (None,) * 3
    nothing = replace(data, sets=(), proposed_sets=None, head_sets=((None,) * 3,) * 5)
    assert '"headSets":[[null,null,null],' in page_html(nothing)


def test_a_set_without_patches_stays_no_number(data):
    """JSON has no NaN, which a share of nothing is."""
    unknown = torch.full_like(data.sets[0].retention, torch.nan)
    sets = (replace(data.sets[0], retention=unknown),)
    assert (
        "NaN"
        not in re.search(
            r'id="facts">(.*?)</script>', page_html(replace(data, sets=sets)), re.DOTALL
        )[1]
    )


def test_a_page_that_cannot_fit_is_refused_before_its_chains_are_solved(
    tiny, picture, monkeypatch
):
    monkeypatch.setattr(collecting, "MAX_NUMBERS", 100)
    monkeypatch.setattr("attnchain.mixed_heads.second_eigenvalue", None)
    with pytest.raises(OutputError, match="choose a size up to"):
        collect(tiny, picture, size=80)


def test_far_too_many_patches_are_refused_before_the_model_runs(
    tiny, picture, monkeypatch
):
    monkeypatch.setattr("attnchain.vision.picture_attention.MOST_PATCHES", 20)
    monkeypatch.setattr("attnchain.vision.picture_attention.capture", None)
    with pytest.raises(GridError, match="patches"):
        collect(tiny, picture, size=80)
