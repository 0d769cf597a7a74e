"""Models by name: the right weights and token layout, or a clear error."""

import dataclasses
import json
import os
import subprocess
import sys

import huggingface_hub
import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from attnchain.capturing import capture
from attnchain.errors import (
    GridError,
    ImageError,
    MissingExtraError,
    ModelNotFoundError,
    ShapeError,
    UnsupportedModelError,
)
from attnchain.models import load
from attnchain.models.from_transformers import FAMILIES, IMAGENET

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "patch_size": 4,
    "image_size": 16,
}
TEXT = {
    "hidden_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 20,
}


def clip(name):
    config = getattr(transformers, f"{name}Config")(
        text_config=TEXT, vision_config=SMALL
    )
    return getattr(transformers, f"{name}Model")(config)


def vision(name, model="Model", **more):
    config = getattr(transformers, f"{name}Config")(**(SMALL | more))
    return getattr(transformers, f"{name}{model}")(config)


# The kind of model published, and the tokens before its patches.
KINDS = {
    "vit": (lambda: vision("ViT"), 1),
    "vit-classifier": (lambda: vision("ViT", "ForImageClassification"), 1),
    "deit": (lambda: vision("DeiT"), 2),
    "dinov2": (lambda: vision("Dinov2"), 1),
    "registers": (lambda: vision("Dinov2WithRegisters", num_register_tokens=3), 4),
    "dinov3": (lambda: vision("DINOv3ViT", num_register_tokens=3), 4),
    "clip": (lambda: clip("CLIP"), 1),
    "clip-vision": (lambda: vision("CLIPVision"), 1),
    "siglip": (lambda: clip("Siglip"), 0),
    "siglip-vision": (lambda: vision("SiglipVision"), 0),
}


@pytest.fixture
def publish(tmp_path):
    """Save a random model as a folder in the form of transformers."""

    def publish(kind):
        torch.manual_seed(3)
        model = KINDS[kind][0]().eval()
        model.save_pretrained(tmp_path / kind)
        return tmp_path / kind, model

    return publish


@pytest.fixture
def offline(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))


def noise(width, height, mode="RGB"):
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3))
    return Image.fromarray(values.astype(np.uint8)).convert(mode)


def edit(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


# Kinds of models


@pytest.mark.parametrize("kind", KINDS)
def test_the_published_weights_are_loaded(publish, kind):
    folder, model = publish(kind)
    pixels = torch.randn(1, 3, 16, 16)
    whole = {"clip", "siglip"} & {kind}
    tower = model.vision_model if whole else getattr(model, "vit", model)
    loaded = load(folder)
    with torch.no_grad():
        expected = tower(pixels).last_hidden_state
        found = loaded.model(pixels).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert not loaded.model.training
    assert loaded.model.config._attn_implementation == "sdpa"
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}


@pytest.mark.parametrize("kind", KINDS)
def test_the_grid_counts_the_models_tokens_row_by_row(publish, kind):
    loaded = load(publish(kind)[0])
    pixels = torch.zeros(1, 3, 12, 20)
    grid = loaded.grid(pixels)
    assert (grid.rows, grid.columns, grid.prefix) == (3, 5, KINDS[kind][1])
    changed = pixels.clone()
    changed[..., 4:8, 12:16] = 1
    with torch.no_grad():
        before, after = (
            loaded.model(x, output_hidden_states=True).hidden_states[0]
            for x in (pixels, changed)
        )
    assert before.shape[1] == grid.prefix + 15
    moved = (before != after).any(-1)[0].nonzero().flatten().tolist()
    assert moved == [grid.prefix + 1 * 5 + 3]


@pytest.mark.parametrize("kind", KINDS)
def test_the_grid_is_the_one_that_capture_finds(publish, kind):
    """Two tables know these families, one by name and one by class: they agree."""
    loaded = load(publish(kind)[0])
    pixels = torch.zeros(1, 3, 12, 20)
    with capture(loaded.model) as attention, torch.no_grad():
        loaded.model(pixels)
    assert attention[0].grid == loaded.grid(pixels)
    assert attention[0].shape == (1, 2, loaded.prefix + 15, loaded.prefix + 15)


def test_dinov2_fits_its_position_table_to_an_oblong_grid(publish):
    """The table is enlarged along rows and columns, not along a flat list."""
    folder, model = publish("dinov2")
    table = model.embeddings.position_embeddings
    with torch.no_grad():
        grid = table[:, 1:].view(1, 4, 4, -1).permute(0, 3, 1, 2)
        resized = torch.nn.functional.interpolate(grid, size=(3, 5), mode="bicubic")
        expected = resized.permute(0, 2, 3, 1).reshape(1, 15, -1)
        loaded = load(folder)
        pixels = torch.zeros(1, 3, 12, 20)
        states = loaded.model(pixels, output_hidden_states=True).hidden_states[0]
    bias = model.embeddings.patch_embeddings.projection.bias
    torch.testing.assert_close(states[:, 1:] - bias, expected)


def test_every_family_of_the_table_is_tested(publish):
    kinds = set()
    for kind in KINDS:
        folder, _ = publish(kind)
        kinds.add(json.loads((folder / "config.json").read_text())["model_type"])
    assert kinds == set(FAMILIES)


def test_unknown_token_layout(publish):
    folder, _ = publish("vit")
    edit(folder, model_type="swin")
    with pytest.raises(UnsupportedModelError, match=r"'swin'.*dinov2"):
        load(folder)


def test_oblong_patches(tmp_path):
    vision("ViT", patch_size=[4, 2]).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match=r"not square: \[4, 2\]"):
        load(tmp_path)


def test_a_model_with_missing_weights_is_refused(publish):
    folder, _ = publish("dinov2")
    edit(folder, num_hidden_layers=3)
    with pytest.raises(ModelNotFoundError, match="missing"):
        load(folder)


def test_weights_of_other_sizes_are_refused(publish):
    folder, _ = publish("dinov2")
    edit(folder, hidden_size=20)
    with pytest.raises(ModelNotFoundError, match="of another shape"):
        load(folder)


@pytest.mark.parametrize(
    "change",
    [{"hidden_size": "x"}, {"hidden_act": "none such"}, {"num_attention_heads": 0}],
    ids=str,
)
def test_impossible_settings(publish, change):
    folder, _ = publish("dinov2")
    edit(folder, **change)
    with pytest.raises(ModelNotFoundError, match="cannot load the model") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"half a file"])
def test_damaged_weights(publish, content):
    folder, _ = publish("dinov2")
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelNotFoundError, match="cannot load the model"):
        load(folder)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("{", ModelNotFoundError),
        ("[]", ModelNotFoundError),
        ("{}", UnsupportedModelError),
    ],
)
def test_damaged_configuration(publish, content, error):
    folder, _ = publish("dinov2")
    (folder / "config.json").write_text(content)
    with pytest.raises(error, match=r"config\.json|model_type None"):
        load(folder)


def test_pickled_weights_are_never_read(publish, monkeypatch):
    folder, model = publish("dinov2")
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    monkeypatch.setattr(torch, "load", None)
    with pytest.raises(ModelNotFoundError, match=r"holds no .*safetensors"):
        load(folder)


def test_the_libraries_settings_are_left_as_they_were(publish):
    from transformers.utils import logging

    folder, _ = publish("dinov2")
    logging.set_verbosity_info()
    try:
        load(folder)
        assert logging.get_verbosity() == logging.INFO
        assert logging.is_progress_bar_enabled()
    finally:
        logging.set_verbosity_warning()


# The hub


@pytest.mark.parametrize("name", ["dinov2-small", "someone/some-model", "a//b"])
def test_offline_or_unknown_names_the_packaged_model(offline, name):
    with pytest.raises(ModelNotFoundError, match="dinov2-small-saliency") as caught:
        load(name)
    assert "\n" not in str(caught.value)


def test_a_missing_folder(offline, tmp_path):
    with pytest.raises(ModelNotFoundError, match="cannot load the model"):
        load(tmp_path / "none")


def test_the_hub_is_asked_for_safetensors_only(publish, monkeypatch):
    folder, _ = publish("dinov2")
    asked = {}

    def snapshot(name, *, allow_patterns):
        asked.update(name=name, patterns=allow_patterns)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    loaded = load("dinov2-small")
    assert asked["name"] == "facebook/dinov2-small"
    endings = {pattern.rpartition(".")[2] for pattern in asked["patterns"]}
    assert endings == {"json", "safetensors", "txt", "jinja"}
    assert loaded.name == "dinov2-small"
    assert "facebook/dinov2-small" in loaded.note


# Pixels


def test_the_models_own_normalisation_is_used(publish):
    folder, _ = publish("vit")
    assert (load(folder).mean, load(folder).std) == IMAGENET
    nested = {"image_processor": {"image_mean": [0.1, 0.2, 0.3]}}
    (folder / "processor_config.json").write_text(json.dumps(nested))
    assert load(folder).mean == (0.1, 0.2, 0.3)
    plain = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(plain))
    loaded = load(folder)
    assert (loaded.mean, loaded.std) == ((0.5,) * 3, (0.25,) * 3)
    pixels = loaded.pixels(Image.new("RGB", (9, 9), (0, 255, 51)), size=16)
    expected = torch.tensor([-2.0, 2.0, (0.2 - 0.5) / 0.25]).view(1, 3, 1, 1)
    torch.testing.assert_close(pixels, expected.expand(1, 3, 16, 16))


@pytest.mark.parametrize(
    ("picture", "size", "expected"),
    [
        ((512, 512), 518, (518, 518)),
        ((600, 400), 518, (350, 518)),
        ((400, 600), 518, (518, 350)),
        ((451, 300), 518, (350, 518)),
        ((1, 1), 518, (518, 518)),
        ((3000, 2), 518, (14, 518)),
        ((640, 480), 500, (378, 504)),
        ((640, 480), 14, (14, 14)),
    ],
)
def test_the_longer_side_becomes_the_size(tiny_package, picture, size, expected):
    loaded = dataclasses.replace(load(), patch_size=14)
    pixels = loaded.pixels(Image.new("RGB", picture), size=size)
    assert pixels.shape == (1, 3, *expected)
    grid = loaded.grid(pixels)
    assert (grid.rows, grid.columns) == (expected[0] // 14, expected[1] // 14)


def test_pixels_are_resized_with_antialiasing(tiny_package):
    """A fine chessboard must become grey, as in torch's own antialiased bicubic."""
    loaded = load()
    values = np.indices((64, 96)).sum(0)[..., None].repeat(3, 2) % 2 * 255
    picture = Image.fromarray(values.astype(np.uint8))
    plain = torch.tensor(values, dtype=torch.float32).permute(2, 0, 1)[None] / 255
    expected = torch.nn.functional.interpolate(
        plain, size=(16, 24), mode="bicubic", antialias=True
    )
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in IMAGENET)
    found = loaded.pixels(picture, size=24) * std + mean
    torch.testing.assert_close(found, expected, atol=2 / 255, rtol=0)
    assert float((found - 0.5).abs().max()) < 0.1


def test_other_colour_modes_are_converted(tiny_package):
    loaded = load()
    grey = noise(8, 6, "L")
    pixels = loaded.pixels(grey, size=8)
    assert torch.equal(pixels, loaded.pixels(grey.convert("RGB"), size=8))


def test_what_is_not_a_picture_is_refused(tiny_package):
    with pytest.raises(ImageError, match="expected a Pillow picture, got str"):
        load().pixels("picture.png")


@pytest.mark.parametrize("size", [1, 0, -4])
def test_a_size_below_one_patch_is_refused(tiny_package, size):
    with pytest.raises(GridError, match="at least one patch"):
        load().pixels(noise(8, 8), size=size)


@pytest.mark.parametrize("shape", [(1, 3, 5, 4), (1, 3, 4, 5), (3, 4, 4), (4,)])
def test_pixels_of_broken_patches_have_no_grid(tiny_package, shape):
    with pytest.raises(GridError, match="multiples of 2"):
        load().grid(torch.zeros(shape))


@pytest.mark.parametrize("device", ["cuda:99", "nonsense"])
def test_a_device_that_is_not_there(cache, device):
    with pytest.raises(ShapeError, match="use 'cpu'"):
        load(device=device)


@pytest.mark.gpu
def test_model_and_pixels_go_to_the_device(tiny_package):
    loaded = load(device="cuda")
    pixels = loaded.pixels(noise(8, 6), size=8)
    assert loaded.model(pixels).last_hidden_state.device.type == "cuda"


def test_the_loaded_model_is_frozen(tiny_package):
    with pytest.raises(dataclasses.FrozenInstanceError):
        load().patch_size = 3


# timm


@pytest.fixture
def save_timm(tmp_path):
    timm = pytest.importorskip("timm")

    def save_timm(name, **arguments):
        torch.manual_seed(4)
        model = timm.create_model(name, **arguments).eval()
        folder = tmp_path / name
        timm.models.save_for_hf(
            model, folder, model_args=arguments, safe_serialization=True
        )
        return folder, model

    return save_timm


SLIM = {"depth": 2, "embed_dim": 12, "num_heads": 2, "img_size": 64}


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("vit_tiny_patch16_224", 1),
        ("vit_small_patch16_dinov3", 5),
        ("deit_tiny_distilled_patch16_224", 2),
    ],
)
def test_timm_models(save_timm, name, prefix):
    arguments = {} if "dinov3" in name else SLIM
    folder, model = save_timm(name, **arguments)
    loaded = load(f"timm:{folder}")
    side = 64 if arguments else 256
    pixels = loaded.pixels(noise(side, side), size=side)
    with torch.no_grad():
        expected = model.forward_features(pixels)
        found = loaded.model.forward_features(pixels)
        torch.testing.assert_close(found, expected)
        oblong = loaded.pixels(noise(60, 32), size=96)
        tokens = loaded.model.forward_features(oblong).shape[1]
    grid = loaded.grid(oblong)
    assert (grid.rows, grid.columns, grid.prefix) == (3, 6, prefix)
    assert tokens == prefix + 18
    assert loaded.mean == tuple(model.pretrained_cfg["mean"])
    assert not loaded.model.training


def test_timm_models_that_are_no_plain_transformers(save_timm):
    folder, _ = save_timm("resnet10t")
    with pytest.raises(UnsupportedModelError, match="plain vision transformers"):
        load(f"timm/{folder}")


@pytest.mark.parametrize(
    "name", ["timm/vit_small_patch14_dinov2.lvd142m", "timm:no_such_model"]
)
def test_timm_offline_or_unknown(offline, name):
    with pytest.raises(ModelNotFoundError, match="dinov2-small-saliency"):
        load(name)


def test_a_timm_name_without_tag_means_its_default_weights(save_timm, monkeypatch):
    folder, _ = save_timm("vit_tiny_patch16_224", **SLIM)
    asked = []

    def snapshot(name, **_):
        asked.append(name)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    load("timm/vit_tiny_patch16_224")
    assert asked == ["timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"]


def test_timm_weights_of_another_architecture(save_timm):
    folder, _ = save_timm("vit_tiny_patch16_224", **SLIM)
    edit(folder, model_args=SLIM | {"depth": 3})
    with pytest.raises(ModelNotFoundError, match="Missing key"):
        load(f"timm:{folder}")


# Optional packages


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("dinov2-small-saliency", "transformers", "transformers"),
        ("someone/some-model", "huggingface_hub", "transformers"),
        ("timm/vit_tiny_patch16_224", "timm", "timm"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    cache, monkeypatch, name, package, extra
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf'pip install "attnchain\[{extra}\]"'):
        load(name)
    assert not cache.exists()


def test_importing_loads_no_heavy_package():
    code = "import attnchain.models, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.split())
    assert "torch" in loaded
    heavy = {"transformers", "timm", "onnx", "PIL", "scipy", "huggingface_hub"}
    assert not heavy & loaded
