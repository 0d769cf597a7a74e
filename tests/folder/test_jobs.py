"""Every picture answered once, whatever happens to the others."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.folder.odd_jobs import Losing
from tests.vision import tiny

from attnchain.errors import ArgumentError, ModelNotFoundError
from attnchain.folder import Job, find_pictures, orphans, plan, run
from attnchain.models import load, origin, read_picture, weights_digest
from attnchain.vision import Prompt, segment

SETTINGS = {"size": 64}


@pytest.fixture
def job(tiny_folder, tmp_path):
    return Job(str(tiny_folder), tmp_path / "out", SETTINGS, ("labels",))


def planned(job, photos, prompt=None):
    pictures = find_pictures([photos], recursive=True)
    return plan(job, pictures, prompt and dict.fromkeys(pictures, prompt))


def statuses(outcomes):
    return {o.item.picture.place.as_posix(): o.status for o in outcomes}


def test_results_lie_as_the_pictures_do_and_none_overwrites_another(job, photos):
    items = planned(job, photos)
    assert {*statuses(run(job, items)).values()} == {"done"}
    names = {p.relative_to(job.out).as_posix() for p in job.out.rglob("*.png")}
    assert names == {
        *("a/1-segments.png", "b/1-segments.png"),
        *("x-segments.png", "x-2-segments.png"),
    }
    expected = segment(read_picture(photos / "x.png"), model=load(job.model), size=64)
    with Image.open(job.out / "x-segments.png") as labels:
        assert np.array_equal(np.asarray(labels), expected.labels.numpy())


def test_every_answer_says_where_it_comes_from(job, photos):
    assert {*statuses(run(job, planned(job, photos))).values()} == {"done"}
    told = json.loads((job.out / "a" / "1.json").read_text("utf-8"))
    picture = next((photos / "a").iterdir())
    whence = origin(load(job.model).model, picture.read_bytes())
    assert {name: told[name] for name in whence} == whence


def test_no_file_of_a_picture_is_one_of_another_or_of_the_record(job, photos):
    for name in ("x-coco.png", "x-polygons.png", "attnchain-job.png"):
        tiny.picture().save(photos / name)
    items = planned(job, photos)
    folders = [job.outputs(item) for item in items]
    files = [target for outputs in folders for target in outputs.targets]
    files += job.record().targets
    assert len(files) == len({*files})
    assert {*statuses(run(job, items)).values()} == {"done"}
    for item in items:
        told = json.loads((job.folder(item) / f"{item.stem}.json").read_text("utf-8"))
        assert told["image"] == str(item.picture.path)
    assert {*statuses(run(job, planned(job, photos))).values()} == {"kept"}


def test_a_second_run_keeps_what_still_fits(job, photos):
    list(run(job, planned(job, photos)))
    assert {*statuses(run(job, planned(job, photos))).values()} == {"kept"}
    (job.out / "a" / "1-segments.png").unlink()
    with Image.open(photos / "b" / "1.png") as picture:
        turned = picture.rotate(180)
    turned.save(photos / "b" / "1.png")
    again = statuses(run(job, planned(job, photos)))
    assert {place for place, now in again.items() if now == "kept"} == {
        "x.png",
        "x.bmp",
    }
    assert {*statuses(run(job, planned(job, photos))).values()} == {"kept"}


def test_other_settings_or_marks_are_another_question(job, photos):
    list(run(job, planned(job, photos)))
    other = Job(job.model, job.out, {**SETTINGS, "sets": 3}, job.files)
    assert {*statuses(run(other, planned(other, photos))).values()} == {"done"}
    marked = planned(other, photos, Prompt(points=((20, 11),)))
    job = Job(job.model, job.out, SETTINGS, job.files)
    assert {*statuses(run(job, marked)).values()} == {"done"}
    told = json.loads((job.out / "a" / "1.json").read_text("utf-8"))
    assert told["settings"]["prompt"]["points"] == [[20, 11]]
    assert told["mode"] == "clicks"


def test_a_broken_picture_is_told_and_the_rest_goes_on(job, photos):
    (photos / "a" / "1.png").write_bytes((photos / "a" / "1.png").read_bytes()[:100])
    outcomes = list(run(job, planned(job, photos)))
    failed = [o for o in outcomes if o.status == "failed"]
    assert [o.item.picture.place.as_posix() for o in failed] == ["a/1.png"]
    assert "damaged" in failed[0].reason
    assert not (job.out / "a").exists()
    assert len(outcomes) == 4


@pytest.mark.filterwarnings("default")
def test_what_is_said_of_a_picture_is_kept_with_its_outcome(job, photos):
    Image.fromarray(np.full((40, 64), 4000, np.uint16)).save(photos / "x.png")
    outcomes = {o.item.picture.place.name: o for o in run(job, planned(job, photos))}
    (note,) = outcomes["x.png"].notes
    assert "12 bits" in note
    assert outcomes["x.bmp"].notes == ()


def test_marks_outside_a_picture_fail_that_picture(job, photos):
    items = planned(job, photos, Prompt(points=((9999, 3),)))
    outcomes = list(run(job, items))
    assert {o.status for o in outcomes} == {"failed"}
    assert all("outside" in o.reason for o in outcomes)


def test_two_processes_give_what_one_does(job, photos, tmp_path):
    list(run(job, planned(job, photos)))
    other = Job(job.model, tmp_path / "two", SETTINGS, job.files)
    assert {*statuses(run(other, planned(other, photos), workers=2)).values()} == {
        "done"
    }
    for file in job.out.rglob("*-segments.png"):
        twin = other.out / file.relative_to(job.out)
        with Image.open(file) as one, Image.open(twin) as two:
            assert np.array_equal(np.asarray(one), np.asarray(two))


def assert_ray_starts():
    """Skips where the machine lets no cluster start, whoever asks."""
    ray = pytest.importorskip("ray")
    try:
        ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    except Exception as error:  # noqa: BLE001  (of many kinds, all of the machine)
        pytest.skip(f"Ray does not start on this machine: {error}")
    finally:
        ray.shutdown()


ENGINES = [
    {"workers": 2},
    pytest.param({"workers": 2, "engine": "ray"}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("options", ENGINES, ids=["processes", "ray"])
def test_a_lost_process_loses_nothing_but_the_picture_that_kills_it(
    job, photos, tmp_path, options, monkeypatch
):
    root = str(Path(__file__).parents[2])
    monkeypatch.syspath_prepend(root)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, *sys.path]))
    if "engine" in options:
        assert_ray_starts()
    seen = tmp_path / "seen"
    seen.mkdir()
    losing = Losing(
        job.model,
        job.out,
        SETTINGS,
        job.files,
        always="a/1.png",
        once="x.png",
        seen=seen,
    )
    outcomes = list(run(losing, planned(losing, photos), **options))
    assert statuses(outcomes) == {
        "a/1.png": "failed",
        "b/1.png": "done",
        "x.png": "done",
        "x.bmp": "done",
    }
    assert [o.reason for o in outcomes if o.status == "failed"] == [
        "the process that read it was lost (killed, or out of memory)"
    ]
    left = {p.name for p in job.out.rglob("*") if p.is_file() and p.name[0] == "."}
    assert left == set()


def test_no_model_ends_the_job(job, photos):
    lost = Job("no/such-model-here", job.out, SETTINGS, job.files)
    for workers in (1, 2):
        with pytest.raises(ModelNotFoundError):
            list(run(lost, planned(lost, photos), workers=workers))
    shutil.rmtree(job.out, ignore_errors=True)


def test_engines_and_workers_are_checked(job, photos):
    items = planned(job, photos)
    with pytest.raises(ArgumentError, match="engine must be one of local, ray"):
        list(run(job, items, engine="dask"))
    with pytest.raises(ArgumentError, match="workers"):
        list(run(job, items, workers=0))
    with pytest.raises(ArgumentError, match="address"):
        list(run(job, items, address="auto"))


ORPHANING = """
import os
from attnchain.folder import engines

if __name__ == "__main__":
    context = engines.get_context("spawn")
    pool = engines.ProcessPoolExecutor(
        1, context, initializer=engines._begin, initargs=(1,)
    )
    print(pool.submit(os.getpid).result(), flush=True)
    input()
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="waits on Linux's pidfd")
def test_processes_end_when_their_parent_is_killed(tmp_path):
    script = tmp_path / "orphaning.py"
    script.write_text(ORPHANING, "utf-8")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, script], **pipes) as parent:
        worker = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
        ended, _, _ = select.select([worker], [], [], 60)
    if not ended:
        signal.pidfd_send_signal(worker, signal.SIGKILL)
    os.close(worker)
    assert ended


def test_a_picture_that_broke_takes_its_earlier_answer_along(job, photos):
    list(run(job, planned(job, photos)))
    (photos / "a" / "1.png").write_bytes(b"no picture any more")
    again = statuses(run(job, planned(job, photos)))
    assert again == {
        "a/1.png": "failed",
        "b/1.png": "kept",
        "x.png": "kept",
        "x.bmp": "kept",
    }
    assert not list((job.out / "a").iterdir())


def test_answers_of_renamed_pictures_are_named(job, photos):
    items = planned(job, photos)
    list(run(job, items))
    assert orphans(job, items) == []
    (photos / "a" / "1.png").rename(photos / "a" / "2.png")
    items = planned(job, photos)
    list(run(job, items))
    assert orphans(job, items) == [job.out / "a" / "1.json"]


def test_other_weights_under_the_same_name_are_another_question(job, photos):
    list(run(job, planned(job, photos)))
    (item, *_) = planned(job, photos)
    weights = weights_digest(load(job.model).model)
    assert job.kept(item, lambda: weights).status == "kept"
    assert job.kept(item, lambda: weights[::-1]) is None


@pytest.mark.slow
def test_workers_without_a_place_on_the_cluster_hold_up_nothing(job, photos):
    assert_ray_starts()
    import ray

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        outcomes = list(run(job, planned(job, photos), workers=3, engine="ray"))
        assert ray.is_initialized()
    finally:
        ray.shutdown()
    assert {*statuses(outcomes).values()} == {"done"}
    assert len(outcomes) == 4


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "a:b"])
def test_an_address_without_a_cluster_is_said(job, photos, address):
    pytest.importorskip("ray")
    options = {"engine": "ray", "address": address}
    with pytest.raises(ArgumentError, match=f"no Ray cluster answers at {address}"):
        list(run(job, planned(job, photos), **options))
