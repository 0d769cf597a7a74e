import json
from dataclasses import replace

import pytest
import torch
from tests.evaluate import folders
from tests.vision import tiny

from attnchain.errors import DataSetError
from attnchain.evaluate import PROTOCOLS, open_data_set, run
from attnchain.evaluate.method import Method
from attnchain.evaluate.protocols.foreground import ablation, below_last, map_scores
from attnchain.evaluate.protocols.regions import class_counts
from attnchain.evaluate.protocols.token_masking import (
    SHARES,
    area,
    masked_pixels,
    nearest_class_mean,
    right_answers,
)
from attnchain.evaluate.report import Column, Results, Table, each, interval
from attnchain.evaluate.subject import read_subject
from attnchain.vision import segment_object

LAYOUT = {
    "foreground": ("grabcut", folders.objects),
    "clicks": ("grabcut", folders.objects),
    "regions": ("bsds500", folders.regions),
    "masking": ("voc99", folders.classes),
}
SOME = {
    "clicks": ["default", "session, corrected", "control: distance in the picture"],
    "regions": ["default", "k-means on features", "control: nine tiles"],
}


LAYERS = ((1,), (0, 1), (0,))


@pytest.fixture(scope="module")
def model():
    return tiny.dinov2()


@pytest.fixture(scope="module", params=PROTOCOLS)
def done(request, model, tmp_path_factory):
    """A protocol with its results on a miniature data set."""
    folder = tmp_path_factory.mktemp(request.param)
    layout, build = LAYOUT[request.param]
    data_set = open_data_set(layout, build(folder / "data"))
    protocol = PROTOCOLS[request.param](
        model, size=64, families=SOME.get(request.param)
    )
    return protocol, run(data_set, protocol, folder / "results.jsonl")


def test_every_picture_is_scored_by_every_method(done):
    protocol, result = done
    assert not result.broken
    assert len(result.results.records) in (2, 4)
    for record in result.results.records:
        assert {method.name for method in protocol.methods} <= set(record["scores"])


def test_tables_name_their_protocol_and_hold_a_row_for_each_method(done):
    protocol, result = done
    tables = protocol.tables(result.results)
    assert tables
    families = {method.family for method in protocol.methods}
    assert len(tables[0].rows) == len(families)
    for table in tables:
        assert table.protocol.endswith(".")
        assert all(len(row) == len(table.columns) for row in table.rows)
        assert len({*table.columns}) == len(table.columns)
        json.dumps(table.rows, allow_nan=False)
    statements = [table.protocol for table in tables]
    columns = [set(table.columns[1:]) for table in tables]
    for i, one in enumerate(statements):
        for j, other in enumerate(statements):
            shared = {c for c in columns[i] & columns[j] if c[:1].isalpha()}
            assert i == j or one == other or shared <= {"foreground IoU", *_MIOU}


_MIOU = {"mIoU, class mean", "mIoU, pooled Acc/(2-Acc)", "Acc"}


def test_figures_are_drawn(done, tmp_path):
    protocol, result = done
    figures = protocol.figures(result.results)
    assert figures
    for ending, figure in figures.items():
        figure.savefig(tmp_path / f"figure{ending}.png", dpi=40)


def test_one_half_is_enough_for_tables(done):
    protocol, result = done
    records = result.results.records
    for names in (set(), {record["picture"] for record in records}):
        half = Results(records, names)
        tables = protocol.tables(half)
        assert tables
        empty = "choosing half" if half.reporting else "reporting half"
        for table in tables:
            for number, column in enumerate(table.columns):
                if empty in column:
                    assert {row[number] for row in table.rows} == {None}
        assert protocol.figures(half)


def test_an_unknown_method_lists_the_known_ones(model):
    with pytest.raises(DataSetError, match=r"called 'magic'; known are default; "):
        PROTOCOLS["foreground"](model, families=["magic"])


def test_the_default_mask_is_that_of_the_task(model):
    subject = read_subject(tiny.picture(), model, size=64)
    truth = torch.zeros(40, 64, dtype=torch.long)
    truth[5:30, 10:40] = 1
    protocol = PROTOCOLS["foreground"](model, families=["default"])
    found = protocol.scored(protocol.methods[0], subject, truth[None])
    mask = segment_object(subject.part((1,))).labels.bool()
    both = int((mask & (truth == 1)).sum())
    assert found["one_region_iou"] == both / int((mask | (truth == 1)).sum())
    assert found["one_region"][1][1] == both
    assert sum(map(sum, found["one_region"])) == 40 * 64


def test_a_method_that_fails_is_scored_as_finding_nothing(model):
    subject = read_subject(tiny.picture(), model, size=64)
    truth = torch.ones(1, 40, 64, dtype=torch.long)

    def fail(*_, **__):
        raise ValueError("no solution\nand more")

    method = Method("m", (0,), fail)
    found = PROTOCOLS["foreground"](model).scored(method, subject, truth)
    assert found["failed"] == "ValueError: no solution"
    assert found["one_region_iou"] == 0
    assert found["one_region"] == [[0, 0], [40 * 64, 0]]
    assert PROTOCOLS["regions"](model).scored(method, subject, truth)["segments"] == 1
    assert PROTOCOLS["clicks"](model).scored(method, subject, truth)["iou"] == [0.0]


def test_a_perfect_map_scores_one_under_every_protocol(model):
    picture = tiny.picture(64, 40)
    subject = read_subject(picture, model, size=64)
    truth = torch.zeros(40, 64, dtype=torch.long)
    truth[8:24, 16:40] = 1
    found = map_scores(truth.float(), subject, truth)
    assert found["one_region_iou"] == found["all_regions_iou"] == 1
    assert found["ap"] == pytest.approx(1)
    assert max(found["f"]) == 1
    assert found["concepts"][0][1] == found["concepts"][1][0] == 0


def test_methods_without_the_last_layer_and_the_ablation(model):
    methods = PROTOCOLS["foreground"](model).methods
    below = below_last(methods)
    assert {method.layers for method in below} == {(0,)}
    scores = {m.name: {"one_region_iou": len(m.name) / 100} for m in methods}
    results = Results([{"picture": "a", "scores": scores}], {"a"})
    found = ablation(methods, results)
    assert found.keys() == {(w, x) for w in ("lambda2", "uniform") for x in LAYERS}
    assert found["uniform", (0, 1)].keys() == set(range(1, 11))
    # reworded, they are the same numbers
    names = {m.name: f"{i}" for i, m in enumerate(methods)}
    reworded = [replace(m, family=names[m.name], setting="") for m in methods]
    scores = {names[name]: value for name, value in scores.items()}
    again = Results([{"picture": "a", "scores": scores}], {"a"})
    assert ablation(reworded, again) == found
    assert below_last(reworded) == [m for m in reworded if m.layers == (0,)]


def test_settings_are_chosen_in_each_family_on_the_choosing_half():
    methods = [Method(n[0], (0,), print, setting=n[1]) for n in ("a1", "a2", "b1")]
    values = {"a1": (0.2, 0.9), "a2": (0.7, 0.1), "b1": (0.5, 0.4)}
    names = [method.name for method in methods]
    records = [
        {
            "picture": picture,
            "scores": {
                n: {"x": v[i]} for n, v in zip(names, values.values(), strict=True)
            },
        }
        for i, picture in enumerate("pq")
    ]
    results = Results(records, {"p"})
    best = results.best(methods, lambda scores: scores[0]["x"])
    assert [method.name for method in best] == ["a, 2", "b, 1"]
    columns = [
        Column("x", "choosing half", lambda scores: scores[0]["x"]),
        Column("x", "reporting half", each("x"), interval=True),
        Column("x", "all", lambda scores: sum(score["x"] for score in scores)),
    ]
    table = results.table("T", "P", best, columns)
    assert table.columns[1:] == ("x, choosing half", "x, reporting half [95 %]", "x")
    assert table.rows == (
        ("a, 2", 0.7, "0.100 [0.100, 0.100]", 0.7 + 0.1),
        ("b, 1", 0.5, "0.400 [0.400, 0.400]", 0.5 + 0.4),
    )


@pytest.mark.parametrize("depth", [1, 2, 3, 12])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_no_two_methods_share_a_name(name, depth):
    methods = PROTOCOLS[name].all_methods(None, depth)
    assert len({method.name for method in methods}) == len(methods)
    for method in methods:
        assert all(0 <= layer < depth for layer in method.layers)
        json.dumps(dict(method.settings))


def test_the_interval_of_a_mean_is_about_two_standard_errors():
    draw = torch.Generator().manual_seed(3)
    values = torch.rand(200, generator=draw, dtype=torch.float64)
    low, high = interval(values.tolist())
    error = float(values.std() / 200**0.5)
    mean = float(values.mean())
    assert low == pytest.approx(mean - 1.96 * error, abs=0.3 * error)
    assert high == pytest.approx(mean + 1.96 * error, abs=0.3 * error)


def test_counts_of_matched_classes():
    truth = torch.tensor([[0, 0, 5, 5, -1, 5]])
    labels = torch.tensor([[9, 9, 9, 2, 2, 2]])
    assert class_counts(labels, truth) == {"0": [2, 3, 2], "5": [2, 2, 3]}


def test_masked_patches_are_the_mean_colour():
    pixels = torch.ones(1, 3, 16, 24)
    masked = masked_pixels(pixels, torch.tensor([5, 0, 1, 2, 3, 4]), 0.34)
    expected = torch.ones(2, 3)
    expected[1, 2] = expected[0, 0] = 0
    assert torch.equal(masked[0, 0, ::8, ::8], expected)
    assert int((masked == 0).sum()) == 2 * 64 * 3


def test_the_nearest_class_mean():
    tokens = torch.tensor([[4.0, 1.0], [4.0, 2.0], [0.0, 7.0], [1.0, 8.0]])
    known = nearest_class_mean(tokens, torch.tensor([3, 3, 8, 8]))
    assert known(torch.tensor([[5.0, 1.0], [1.0, 9.0]])).tolist() == [3, 8]


def test_the_area_under_the_accuracy():
    assert area([True] * (len(SHARES) + 1)) == 1
    assert area([True] + [False] * len(SHARES)) == pytest.approx(0.1 / 0.9)


def test_a_picture_never_teaches_its_own_class():
    """Two pictures of class 1 that are each other's opposite, one of class 2."""
    tokens = {"a": [1.0, 0.0], "b": [-1.0, 0.0], "c": [0.9, 0.1], "d": [0.9, -0.1]}
    labels = {"a": 1, "b": 1, "c": 2, "d": 3}
    directions = ("most important first", "least important first")
    records = [
        {
            "picture": name,
            "scores": {
                "label": labels[name],
                "whole": token,
                "r": {way: [token] * len(SHARES) for way in directions},
            },
        }
        for name, token in tokens.items()
    ]
    hits = right_answers(["r"], records)
    assert hits["r", directions[0]] == [[False] * 6, [False] * 6]


def test_numbers_in_a_table_have_three_decimals():
    table = Table("T", "P.", ("m", "x", "n", "y"), (("a", 0.12345, 7, None),), ("N.",))
    assert "| a | 0.123 | 7 | - |" in table.markdown()
    assert table.markdown().endswith("\n\nN.")
