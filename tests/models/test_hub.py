"""Models by their hub name, in a fresh process, from a hub on this computer."""

import json

import pytest
import torch
from tests.models.stand_in import closed_port, fresh, hub
from tests.vision import tiny

LOAD = """
import json, sys
from attnchain.models import load
loaded = load(sys.argv[1])
weight = next(p for n, p in loaded.model.named_parameters() if n.endswith("cls_token"))
print(json.dumps([loaded.note, loaded.prefix, loaded.patch_size, weight.tolist()]))
"""
COMMAND = "from attnchain.cli import main; main()"
TIMM = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
SLIM = {"depth": 2, "embed_dim": 12, "num_heads": 2, "img_size": 64}
NAMES = ["dinov2-small", "facebook/dinov2-small", "timm/vit_tiny_patch16_224"]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Folders by repository, and the class token of each."""
    timm = pytest.importorskip("timm")
    dino, vit = (tmp_path_factory.mktemp(name) for name in ("dino", "vit"))
    model = tiny.dinov2().model
    model.save_pretrained(dino)
    slim = timm.create_model("vit_tiny_patch16_224", **SLIM).eval()
    torch.nn.init.normal_(slim.cls_token)
    timm.models.save_for_hf(slim, vit, model_args=SLIM, safe_serialization=True)
    return {
        "facebook/dinov2-small": (dino, model.embeddings.cls_token.tolist()),
        f"timm/{TIMM}": (vit, slim.cls_token.tolist()),
    }


@pytest.fixture
def server(published):
    with hub({name: folder for name, (folder, _) in published.items()}) as server:
        yield server


def repository(name):
    return f"timm/{TIMM}" if name.startswith("timm/") else "facebook/dinov2-small"


@pytest.mark.parametrize("name", NAMES)
def test_a_name_gives_the_published_weights_and_stays_without_network(
    server, published, tmp_path, name
):
    done = fresh(LOAD, name, port=server.server_port, home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    note, prefix, patch, token = json.loads(done.stdout)
    assert repository(name) in note
    assert (prefix, patch) == (1, 16 if "timm" in name else tiny.PATCH)
    assert token == published[repository(name)][1]

    with closed_port() as port:
        again = fresh(LOAD, name, port=port, home=tmp_path)
    assert again.stdout == done.stdout, again.stderr


@pytest.mark.parametrize("name", NAMES[1:])
def test_the_command_takes_a_hub_name(server, tmp_path, name):
    tiny.picture().save(tmp_path / "cat.png")
    out, home = tmp_path / "out", tmp_path / "home"
    done = fresh(
        COMMAND,
        *("heads", tmp_path / "cat.png", "--model", name, "--size", 64, "--out", out),
        port=server.server_port,
        home=home,
    )
    assert done.returncode == 0, done.stderr
    assert (out / "cat-heads.json").is_file()


def test_pickled_files_of_a_repository_are_not_fetched(server, published, tmp_path):
    extra = published["facebook/dinov2-small"][0] / "pytorch_model.bin"
    extra.write_bytes(b"pickled")
    try:
        done = fresh(LOAD, "dinov2-small", port=server.server_port, home=tmp_path)
    finally:
        extra.unlink()
    assert done.returncode == 0, done.stderr
    assert any(path.endswith("/model.safetensors") for path in server.asked)
    assert not any(path.endswith(".bin") for path in server.asked)


@pytest.mark.parametrize("name", ["someone/else", "timm/no_such_model"])
def test_a_repository_that_is_not_there(server, tmp_path, name):
    tiny.picture().save(tmp_path / "cat.png")
    assert_refused(name, server.server_port, tmp_path)


@pytest.mark.parametrize("name", NAMES[1:])
@pytest.mark.parametrize("offline", ["0", "1"])
def test_no_network(tmp_path, name, offline):
    tiny.picture().save(tmp_path / "cat.png")
    with closed_port() as port:
        assert_refused(name, port, tmp_path, HF_HUB_OFFLINE=offline)


def test_a_proxy_that_is_not_there(tmp_path):
    tiny.picture().save(tmp_path / "cat.png")
    with closed_port() as port:
        proxy = {"HTTP_PROXY": f"http://127.0.0.1:{port}", "NO_PROXY": ""}
        assert_refused("dinov2-small", port, tmp_path, **proxy)


def assert_refused(name, port, folder, **settings):
    """The command ends with 2, one line that names the model and a way out."""
    out = folder / "out"
    done = fresh(
        COMMAND,
        *("heads", folder / "cat.png", "--model", name, "--out", out),
        port=port,
        home=folder / "home",
        **settings,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("attnchain: cannot load the model")
    assert "dinov2-small-saliency" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not out.exists()
