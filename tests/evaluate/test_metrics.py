from itertools import permutations

import pytest
import torch

from attnchain.evaluate import metrics


@pytest.fixture(scope="module")
def functional():
    return metrics.torchmetrics()


def drawn(seed, high, shape=(23, 17), void=0.1):
    draw = torch.Generator().manual_seed(seed)
    truth = torch.randint(0, high, shape, generator=draw)
    labels = torch.where(
        torch.rand(shape, generator=draw) < 0.6,
        truth,
        torch.randint(0, high, shape, generator=draw),
    )
    truth[torch.rand(shape, generator=draw) < void] = -1
    return labels, truth


def test_class_mean_is_torchmetrics_jaccard_index(functional):
    labels, truth = drawn(0, 4)
    found = metrics.class_mean_miou(metrics.confusion(labels, truth, count=4))
    expected = functional.multiclass_jaccard_index(
        labels[None], truth[None], 4, ignore_index=-1
    )
    assert found == pytest.approx(float(expected), abs=1e-6)


def test_a_class_in_neither_does_not_count():
    labels, truth = drawn(1, 3)
    three = metrics.class_mean_miou(metrics.confusion(labels, truth, count=3))
    assert metrics.class_mean_miou(metrics.confusion(labels, truth, count=9)) == three


def test_pooled_miou_counts_intersections_and_unions_of_all_classes():
    labels, truth = drawn(2, 3)
    matrix = metrics.confusion(labels, truth, count=3)
    scored = truth >= 0
    both = sum(int(((labels == c) & (truth == c)).sum()) for c in range(3))
    either = sum(int((((labels == c) & scored) | (truth == c)).sum()) for c in range(3))
    assert metrics.pooled_miou(matrix) == pytest.approx(both / either)
    assert metrics.accuracy(matrix) == pytest.approx(both / int(scored.sum()))


def test_the_two_mious_differ():
    matrix = torch.tensor([[90, 0], [8, 2]])
    assert metrics.class_mean_miou(matrix) == pytest.approx((90 / 98 + 0.2) / 2)
    assert metrics.pooled_miou(matrix) == pytest.approx(0.92 / 1.08)


def test_average_precision_of_a_right_and_a_reversed_map():
    truth = torch.tensor([[0, 0, 1, -1]])
    scores = torch.tensor([[0.15, 0.2, 0.9, 0.0]])
    assert metrics.stacked_average_precision(scores, truth) == pytest.approx(1)
    # by hand: true entries are ranked 4th, 5th and 6th of 6
    expected = (1 / 4 + 2 / 5 + 3 / 6) / 3
    assert metrics.stacked_average_precision(1 - scores, truth) == pytest.approx(
        expected
    )


def test_average_precision_counts_the_background_too(functional):
    labels, truth = drawn(3, 2)
    scores = (labels + torch.rand(labels.shape)) / 2
    scored = truth >= 0
    stacked = torch.cat([1 - scores[scored], scores[scored]])
    target = torch.cat([truth[scored] == 0, truth[scored] == 1]).long()
    expected = functional.binary_average_precision(stacked, target)
    found = metrics.stacked_average_precision(scores, truth)
    assert found == pytest.approx(float(expected), abs=1e-6)


def test_the_f_curve_is_torchmetrics_fbeta_at_every_level(functional):
    labels, truth = drawn(4, 2)
    scores = ((labels + torch.rand(labels.shape)) / 2).double()
    curve = metrics.f_curve(scores, truth)
    assert len(curve) == metrics.LEVELS
    for index in (0, 5, 20, 37, 50):
        mask = (scores >= index / 50 - 1e-12).long()
        expected = functional.binary_fbeta_score(
            mask[None], truth[None], beta=0.3**0.5, ignore_index=-1
        )
        assert float(curve[index]) == pytest.approx(float(expected), abs=1e-6)


def test_covering_is_the_weighted_best_overlap():
    labels, truth = drawn(5, 4)
    scored = truth >= 0
    total = 0.0
    for region in range(4):
        inside = truth == region
        overlaps = [
            int((inside & (labels == s)).sum())
            / int((inside | ((labels == s) & scored)).sum())
            for s in range(4)
        ]
        total += int(inside.sum()) * max(overlaps)
    expected = total / int(scored.sum())
    assert metrics.covering(labels, truth) == pytest.approx(expected)


def test_covering_does_not_depend_on_names_of_segments():
    _, truth = drawn(6, 4, void=0)
    assert metrics.covering(100 - 7 * truth, truth) == 1


@pytest.mark.parametrize("segments", [2, 3, 5])
def test_matching_has_the_largest_overlap_of_all_matchings(segments):
    labels = drawn(7, segments)[0]
    truth = drawn(8, 3)[1]
    renamed = metrics.matched_labels(labels, truth)
    found = int((renamed == truth).sum())
    table = metrics.overlaps(labels, truth)
    wide, narrow = max(table.shape), min(table.shape)
    oriented = table if table.shape[0] == narrow else table.T
    best = max(
        sum(oriented[i, j] for i, j in enumerate(order[:narrow]))
        for order in permutations(range(wide))
    )
    assert found == best
    assert len(renamed.unique()) == len({*renamed.unique().tolist()})
    unmatched = max(segments - 3, 0)
    assert bool((renamed == metrics.UNMATCHED).any()) == (unmatched > 0)


def test_iou_leaves_void_out_and_two_empty_masks_agree():
    truth = torch.tensor([[1, 1, 0, -1]])
    assert metrics.iou(torch.tensor([[True, False, False, True]]), truth) == 0.5
    assert metrics.iou(torch.zeros(1, 4).bool(), torch.zeros(1, 4)) == 1


def test_torchmetrics_missing_names_the_extra(monkeypatch):
    import sys

    from attnchain.errors import MissingExtraError

    for name in [n for n in sys.modules if n.partition(".")[0] == "torchmetrics"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(MissingExtraError, match=r"attnchain\[evaluate\]"):
        metrics.torchmetrics()
