"""The most important patches of a picture, and how they are said and saved."""

import json

import pytest
import torch

from attnchain.errors import ArgumentError
from attnchain.ranking import token_rank
from attnchain.vision import rank_patches


@pytest.mark.parametrize("direction", ["incoming", "outgoing"])
def test_the_rank_is_that_of_the_mixed_chain(attention, direction):
    found = rank_patches(attention, damping=0.9, direction=direction, count=5)
    expected = token_rank(attention.chain, damping=0.9, direction=direction)
    assert torch.equal(found.rank.distribution, expected.distribution)
    assert found.top == tuple(expected.top(5).tolist())


def test_no_more_patches_are_listed_than_there_are(attention):
    assert sorted(rank_patches(attention, count=1000).top) == list(range(40))


@pytest.mark.parametrize("count", [0, 1.5, "all"])
def test_counts_are_whole_and_positive(attention, count):
    with pytest.raises(ArgumentError, match="count must be"):
        rank_patches(attention, count=count)


def test_a_result_says_and_saves_itself(attention, tmp_path):
    found = rank_patches(attention, count=2)
    files = found.save(tmp_path, stem="it")
    assert {file.name for file in files} == {
        *("it-rank.json", "it-rank.png", "it-rank-map.png")
    }
    facts = json.loads((tmp_path / "it-rank.json").read_text("utf-8"))
    assert [best["patch"] for best in facts["top"]] == list(found.top)
    assert facts["error_bound"] == float(found.rank.error_bound)
    centre = tuple(facts["top"][0]["centre"])
    assert attention.grid.patch_at(*centre, **attention.size) == found.top[0]
    lines = found.summary().splitlines()
    assert "incoming, damping 0.99" in lines[1]
    assert len(lines) == 3 + len(found.top)
    times = 40 * float(found.rank.distribution[found.top[0]])
    assert lines[3].split()[0] == f"{times:.1f}"
