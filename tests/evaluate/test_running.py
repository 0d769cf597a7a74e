import json

import pytest
from tests.evaluate import folders

from attnchain.errors import DataSetError, OutputError
from attnchain.evaluate import open_data_set, run
from attnchain.evaluate.running import Journal, spread


class Counting:
    """A protocol that counts the pictures it is shown."""

    name = "counting"
    kinds = ("object",)
    settings = {"protocol": "counting"}  # noqa: RUF012

    def __init__(self):
        self.shown = []

    def scores(self, picture, truth):
        self.shown.append(picture)
        return {"bright": int((truth == 1).sum())}


@pytest.fixture
def data_set(tmp_path):
    return open_data_set("grabcut", folders.objects(tmp_path / "data", count=6))


def test_every_picture_has_a_line(data_set, tmp_path):
    file = tmp_path / "out/results.jsonl"
    done = run(data_set, Counting(), file)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines[0]["protocol"] == "counting"
    assert [line["picture"] for line in lines[1:]] == list(data_set.names)
    assert done.results.records == lines[1:]
    assert [r["picture"] for r in done.results.choosing] == ["a", "c", "e"]
    assert [r["picture"] for r in done.results.reporting] == ["b", "d", "f"]
    assert not done.broken


def test_a_killed_run_is_continued_and_loses_one_picture(data_set, tmp_path):
    file = tmp_path / "results.jsonl"

    def killed(done, total):
        if done == 3:
            raise KeyboardInterrupt

    first = Counting()
    with pytest.raises(KeyboardInterrupt):
        run(data_set, first, file, progress=killed)
    assert len(file.read_text().splitlines()) == 1 + 3
    whole = file.read_bytes()
    file.write_bytes(whole[:-9])  # the third was cut off while it was written
    second = Counting()
    done = run(data_set, second, file)
    assert len(second.shown) == 6 - 2
    assert [record["picture"] for record in done.results.records] == list(
        data_set.names
    )
    third = Counting()
    assert run(data_set, third, file).results.records == done.results.records
    assert not third.shown


def test_a_line_is_on_the_disk_before_the_next_picture(data_set, tmp_path):
    file = tmp_path / "results.jsonl"
    counts = []
    run(
        data_set,
        Counting(),
        file,
        progress=lambda *_: counts.append(file.read_text().count("\n")),
    )
    assert counts == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("what", ["images/b.png", "masks/b.png"])
def test_a_broken_picture_is_recorded_and_skipped(data_set, tmp_path, what):
    (tmp_path / "data" / what).write_bytes(b"broken")
    file = tmp_path / "results.jsonl"
    done = run(data_set, Counting(), file)
    assert [record["picture"] for record in done.results.records] == list("acdef")
    assert list(done.broken) == ["b"]
    assert done.broken["b"].startswith("ImageError")
    assert '"error"' in file.read_text()


@pytest.mark.parametrize("what", ["images/b.png", "masks/b.png"])
def test_a_picture_that_changed_is_scored_again(data_set, tmp_path, what):
    file = tmp_path / "results.jsonl"
    run(data_set, Counting(), file)
    changed = folders.picture(99) if what.startswith("images") else folders.block()
    folders.save(tmp_path / "data" / what, changed)
    second = Counting()
    done = run(data_set, second, file)
    assert len(second.shown) == 1
    last = json.loads(file.read_text().splitlines()[-1])
    assert last["picture"] == "b"
    assert last in done.results.records
    third = Counting()
    run(data_set, third, file)
    assert not third.shown


def test_a_picture_that_was_mended_is_scored(data_set, tmp_path):
    picture = tmp_path / "data/images/b.png"
    whole = picture.read_bytes()
    picture.write_bytes(whole[:60])
    file = tmp_path / "results.jsonl"
    assert list(run(data_set, Counting(), file).broken) == ["b"]
    picture.write_bytes(whole)
    done = run(data_set, Counting(), file)
    assert not done.broken
    assert len(done.results.records) == 6


def test_another_folder_of_the_same_names_is_scored_anew(data_set, tmp_path):
    file = tmp_path / "results.jsonl"
    run(data_set, Counting(), file)
    other = folders.pairs(tmp_path / "other", "images", "masks", count=6)
    for number, picture in enumerate(sorted((other / "images").iterdir())):
        folders.save(picture, folders.picture(50 + number))
    second = Counting()
    run(open_data_set("grabcut", other), second, file)
    assert len(second.shown) == 6


def test_results_without_a_digest_are_scored_again(data_set, tmp_path):
    file = tmp_path / "results.jsonl"
    run(data_set, Counting(), file)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        line.pop("digest", None)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    second = Counting()
    run(data_set, second, file)
    assert len(second.shown) == 6


def test_a_mask_that_is_not_turned_like_its_picture_says_so(data_set, tmp_path):
    exif = folders.Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "data/images/b.png"
    folders.Image.open(path).save(path, exif=exif)
    done = run(data_set, Counting(), tmp_path / "results.jsonl")
    assert "(32, 48) for (48, 32); one of the two is turned" in done.broken["b"]


def test_labels_of_another_size_break_a_picture(data_set, tmp_path):
    folders.save(tmp_path / "data/masks/c.png", folders.block()[:-1])
    done = run(data_set, Counting(), tmp_path / "results.jsonl")
    assert "(31, 48)" in done.broken["c"]


def test_a_method_that_is_wrong_is_not_hidden(data_set, tmp_path):
    protocol = Counting()
    protocol.scores = lambda picture, truth: protocol.misspelt
    with pytest.raises(AttributeError, match="misspelt"):
        run(data_set, protocol, tmp_path / "results.jsonl")


def test_results_of_other_settings_are_not_continued(data_set, tmp_path):
    file = tmp_path / "results.jsonl"
    run(data_set, Counting(), file)
    other = Counting()
    other.settings = {"protocol": "counting", "size": 7}
    with pytest.raises(DataSetError, match="other settings"):
        run(data_set, other, file)


def test_a_damaged_line_is_named(data_set, tmp_path):
    file = tmp_path / "results.jsonl"
    run(data_set, Counting(), file)
    lines = file.read_text().splitlines()
    lines[3] = lines[3][:5]
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataSetError, match="line 4 is damaged"):
        run(data_set, Counting(), file)


@pytest.mark.parametrize("line", ["7", "{}", "[]"])
def test_a_line_that_is_no_result_is_damaged(data_set, tmp_path, line):
    file = tmp_path / "results.jsonl"
    run(data_set, Counting(), file)
    lines = [*file.read_text().splitlines()[:2], line]
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataSetError, match="line 3 is damaged"):
        run(data_set, Counting(), file)
    assert file.read_text().splitlines() == lines


def test_labels_that_do_not_fit_the_protocol_are_refused(tmp_path):
    data_set = open_data_set("voc99", folders.classes(tmp_path))
    with pytest.raises(DataSetError, match="needs labels of kind object"):
        run(data_set, Counting(), tmp_path / "results.jsonl")


def test_a_folder_that_cannot_be_made_is_an_output_error(data_set, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        run(data_set, Counting(), tmp_path / "file/results.jsonl")


def test_a_full_disk_is_an_output_error(tmp_path):
    with Journal(tmp_path / "results.jsonl", {}) as journal:
        journal._file.close()
        journal._file = open("/dev/full", "wb")  # noqa: SIM115
        with pytest.raises(OutputError, match="No space left"):
            journal.add({"picture": "a"})
        with pytest.raises(OSError, match="No space left"):
            journal._file.close()


@pytest.mark.parametrize("limit", range(1, 12))
def test_a_limit_draws_from_both_halves(limit):
    names = tuple("abcdefghijk")
    chosen = spread(names, limit)
    assert len(set(chosen)) == len(chosen) <= limit
    assert set(chosen) <= set(names)
    first = sum(names.index(name) % 2 == 0 for name in chosen)
    assert abs(2 * first - len(chosen)) <= 1
    assert spread(names, None) == spread(names, 11) == names
    with pytest.raises(DataSetError, match="at least 1"):
        spread(names, 0)
