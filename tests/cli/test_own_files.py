"""People's own files stay, and each picture keeps its own results."""

import hashlib
import json
import shutil

import pytest
from PIL import Image
from tests.cli.ended import assert_one_line
from tests.vision import tiny

from attnchain.signing import signed, signed_for, source_mark

WRITTEN = {
    "segment": ("cat.json", "cat-segments.png", "cat-figure.png", "cat-map.png"),
    "rank": ("cat-rank.json", "cat-rank-map.png", "cat-rank.png"),
    "heads": ("cat-heads.json", "cat-heads.png"),
    "page": ("cat-page.json", "cat-page.html"),
}


def own(path):
    """A file of somebody else: an annotation, a drawn mask, a page."""
    if path.suffix == ".png":
        Image.new("L", (4, 4), 7).save(path)
    else:
        path.write_text('{"shapes": [], "imagePath": "cat.png"}')
    return path.read_bytes()


@pytest.mark.parametrize(
    ("command", "name"), [(c, name) for c, names in WRITTEN.items() for name in names]
)
def test_a_file_of_somebody_else_is_refused_before_the_work(  # noqa: PLR0917
    run, image, tmp_path, monkeypatch, command, name
):
    folder = tmp_path / "out"
    folder.mkdir()
    content = own(folder / name)

    def loaded(_name):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("attnchain.models.load", loaded)
    ended = run(command, image)
    assert ended.code == 2
    assert_one_line(ended.err)
    assert str(folder / name) in ended.err
    assert "--out" in ended.err
    assert ended.files == [name]
    assert (folder / name).read_bytes() == content


def test_the_numbers_tell_where_they_come_from(run, image):
    ended = run("heads", image)
    told = ended.json("cat-heads.json")
    assert told["input_sha256"] == hashlib.sha256(image.read_bytes()).hexdigest()
    assert len(told["weights_sha256"]) == 64
    assert "torch" in told["versions"]


def test_a_link_is_not_replaced(run, image, tmp_path):
    (tmp_path / "out").mkdir()
    link = tmp_path / "out" / "cat-heads.png"
    link.symlink_to(tmp_path / "nowhere")
    ended = run("heads", image)
    assert ended.code == 2
    assert str(link) in ended.err
    assert link.is_symlink()


def corrected(path):
    """What an image editor does: other pixels, the rest of the file kept."""
    with Image.open(path) as picture:
        changed = picture.copy()
    text = changed.info.get("Software")
    changed.putpixel((0, 0), 1 - changed.getpixel((0, 0)))
    from PIL.PngImagePlugin import PngInfo

    kept = PngInfo()
    kept.add_text("Software", text)
    changed.save(path, pnginfo=kept)


def noted(path):
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, "note": "a good one"}, indent=2) + "\n")


@pytest.mark.parametrize(
    ("name", "change"), [("cat-segments.png", corrected), ("cat.json", noted)]
)
def test_results_that_were_changed_by_hand_are_not_replaced(run, image, name, change):
    first = run("segment", image)
    change(first.folder / name)
    content = (first.folder / name).read_bytes()
    second = run("segment", image)
    assert second.code == 2
    assert name in second.err
    assert (first.folder / name).read_bytes() == content


@pytest.mark.parametrize("command", WRITTEN)
def test_pictures_of_one_stem_keep_their_results(run, tmp_path, command):
    for folder, seed in (("A", 1), ("B", 2)):
        (tmp_path / folder).mkdir()
        tiny.picture(seed=seed).save(tmp_path / folder / "cat.png")
    tiny.picture(seed=3).save(tmp_path / "A" / "cat.webp", lossless=True)
    kinds = ("A/cat.png", "B/cat.png", "A/cat.webp")
    for _ in range(2):  # the second time each picture finds its own again
        for name in kinds:
            ended = run(command, tmp_path / name)
            assert ended.code == 0, ended.err
    ending = WRITTEN[command][0].removeprefix("cat")
    told = [ended.json(f"cat{number}{ending}") for number in ("", "-2", "-3")]
    assert [one["image"] for one in told] == [str(tmp_path / name) for name in kinds]
    named = [name for one in told for name in one["files"]]
    assert sorted(named) == sorted(str(ended.folder / name) for name in ended.files)
    assert "cat-3" in ended.err


def test_a_stem_belongs_to_one_picture_for_all_commands(run, image, tmp_path):
    run("segment", image)
    shutil.copy(image, tmp_path / "cat.bmp")
    ended = run("heads", tmp_path / "cat.bmp")
    assert {"cat-2-heads.json", "cat-2-heads.png"} <= set(ended.files)


def test_one_picture_is_the_same_by_any_path(run, image, tmp_path, monkeypatch):
    run("heads", image)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "cat.png").symlink_to(image)
    run("heads", "cat.png")
    ended = run("heads", "sub/cat.png")
    assert ended.files == ["cat-heads.json", "cat-heads.png"]


def test_moved_with_its_picture_a_result_is_still_its_own(run, image, tmp_path):
    run("heads", image)
    there = tmp_path / "there"
    there.mkdir()
    shutil.move(tmp_path / "out", there / "out")
    shutil.move(image, there / "cat.png")
    ended = run("heads", there / "cat.png", out=there / "out")
    assert ended.files == ["cat-heads.json", "cat-heads.png"]


def test_results_of_an_older_mode_do_not_stay(run, image):
    run("segment", image, "--foreground")
    ended = run("segment", image, "--sets", 3)
    assert ended.files == ["cat-figure.png", "cat-segments.png", "cat.json"]


def test_in_the_folder_of_the_pictures_all_of_them_stay(run, tmp_path):
    for name in ("y.png", "y-map.png", "y-heads.png"):
        tiny.picture().save(tmp_path / name)
    (tmp_path / "other.json").write_text("{}")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for command, code in (("rank", 0), ("segment", 2), ("heads", 2)):
        assert run(command, tmp_path / "y.png", out=tmp_path).code == code
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("head", [b"", b"{}", b"\x89PNG\r\n\x1a\n", b"x" * 9000])
def test_files_of_others_carry_no_signature(tmp_path, head):
    (tmp_path / "it").write_bytes(head)
    assert signed_for(tmp_path / "it") is None


@pytest.mark.parametrize("place", [0, -1, 60])
def test_a_signature_fits_one_content(tmp_path, place):
    file = tmp_path / "it.md"
    file.write_bytes(signed(b"# Table\n\n" + b"| 1 |\n" * 30, "pictures"))
    assert signed_for(file) == source_mark("pictures")
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    assert signed_for(file) is None


def test_a_signed_picture_is_the_picture(tmp_path):
    tiny.picture().save(tmp_path / "it.png")
    content = signed((tmp_path / "it.png").read_bytes(), "it")
    (tmp_path / "signed.png").write_bytes(content)
    with Image.open(tmp_path / "signed.png") as picture:
        picture.verify()
    with Image.open(tmp_path / "signed.png") as picture:
        assert picture.tobytes() == tiny.picture().tobytes()
        assert picture.info["Software"].startswith("attnchain ")


def test_from_python_other_peoples_files_stay_too(tmp_path):
    from attnchain.errors import OutputError
    from attnchain.vision import read_attention

    read = read_attention(tiny.picture(), tiny.torch_only(), size=64)
    read.save(tmp_path, stem="it")
    read.save(tmp_path, stem="it")
    own(tmp_path / "it-heads.png")
    with pytest.raises(OutputError, match=r"it-heads\.png .*not replaced"):
        read.save(tmp_path, stem="it")
