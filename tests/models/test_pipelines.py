"""Pipelines of diffusers by name: the right weights, nothing said, or a clear error."""

import json

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from attnchain.errors import (
    MissingExtraError,
    ModelNotFoundError,
    UnsupportedModelError,
)
from attnchain.models import LoadedPipeline, LoadedText, bundled, load, of_kind, origin
from attnchain.models.origins import weights_digest
from attnchain.testing.models import pipelines

INDEX = "model_index.json"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipelines")
    pipeline = pipelines.flux()
    pipeline.save_pretrained(folder / "flux")
    return pipeline, folder / "flux"


@pytest.fixture
def own(saved, tmp_path):
    """A copy of the folder that a test may damage."""
    import shutil

    return shutil.copytree(saved[1], tmp_path / "own")


@pytest.mark.parametrize("name", ["flux", "stable_diffusion_3", "stable_diffusion"])
def test_a_folder_is_loaded_as_it_was_saved(name, tmp_path, capfd):
    pipeline = getattr(pipelines, name)()
    pipeline.save_pretrained(tmp_path / name)
    capfd.readouterr()
    loaded = load(tmp_path / name)
    assert capfd.readouterr() == ("", "")
    assert isinstance(loaded, LoadedPipeline)
    assert type(loaded.pipeline) is type(pipeline)
    for part, module in loaded.model.items():
        expected = pipeline.components[part].state_dict()
        assert weights_digest(module) == weights_digest(pipeline.components[part])
        assert expected.keys() == module.state_dict().keys()
        assert not module.training
    networks = [m for m in pipeline.components.values() if hasattr(m, "state_dict")]
    assert len(loaded.model) == len(networks)


def test_it_draws_what_the_saved_one_draws(saved, capfd):
    options = {"num_inference_steps": 1, "height": 16, "width": 16}
    options |= {"prompt": "a red cat", "output_type": "np", "max_sequence_length": 16}
    drawn = [
        pipeline(**options, generator=torch.Generator().manual_seed(0)).images
        for pipeline in (saved[0], load(saved[1]).pipeline)
    ]
    np.testing.assert_allclose(drawn[0], drawn[1], atol=1e-4)
    assert capfd.readouterr() == ("", "")


def test_half_precision_is_computed_in_float32(tmp_path):
    pipelines.stable_diffusion().to(torch.bfloat16).save_pretrained(tmp_path / "half")
    types = {weight.dtype for weight in load(tmp_path / "half").model.parameters()}
    assert types == {torch.float32}


def test_origin_tells_weights_and_diffusers(saved):
    loaded = load(saved[1])
    told = origin(loaded.model, b"given")
    assert "diffusers" in told["versions"]
    assert told["weights_sha256"] == origin(load(saved[1]).model, b"")["weights_sha256"]
    with torch.no_grad():
        loaded.pipeline.transformer.proj_out.weight[0, 0] += 1
    assert origin(loaded.model, b"")["weights_sha256"] != told["weights_sha256"]


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder"])
def test_a_weight_that_is_missing_is_named(own, part):
    (file,) = (own / part).glob("*.safetensors")
    weights = load_file(file)
    name = max(key for key in weights if key.endswith(".bias"))
    del weights[name]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ModelNotFoundError, match=rf"{part}: 1 are missing.*bias"):
        load(own)


def test_a_damaged_file_is_one_line(own):
    (file,) = (own / "transformer").glob("*.safetensors")
    file.write_bytes(b"{}")
    with pytest.raises(ModelNotFoundError, match="cannot load the model"):
        load(own)
    (own / INDEX).write_text("[")
    with pytest.raises(ModelNotFoundError, match=INDEX):
        load(own)


def test_a_pipeline_that_diffusers_has_not(own):
    index = json.loads((own / INDEX).read_text()) | {"_class_name": "OwnPipeline"}
    (own / INDEX).write_text(json.dumps(index))
    with pytest.raises(UnsupportedModelError, match=r"OwnPipeline .* not in diffusers"):
        load(own)


def test_diffusers_is_named_where_it_is_missing(saved, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "diffusers", None)
    with pytest.raises(MissingExtraError, match=r"attnchain\[diffusers\]"):
        load(saved[1])


def test_a_repository_is_fetched_by_diffusers(saved, tmp_path, monkeypatch):
    """First the index, which tells that it is a pipeline; then its parts."""
    import diffusers

    asked = []

    def snapshot(name, *, allow_patterns):
        asked.append((name, INDEX in allow_patterns))
        (tmp_path / INDEX).write_bytes((saved[1] / INDEX).read_bytes())
        return str(tmp_path)

    def download(name, *, use_safetensors):
        asked.append((name, use_safetensors))
        return str(saved[1])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(diffusers.DiffusionPipeline, "download", download)
    loaded = load("someone/flux")
    assert asked == [("someone/flux", True)] * 2
    assert loaded.note == "Weights of the hub's someone/flux."


def test_kinds_are_told_apart(saved):
    loaded = load(saved[1])
    assert of_kind(loaded, LoadedPipeline) is loaded
    with pytest.raises(UnsupportedModelError, match="reads a prompt and draws it"):
        of_kind(loaded, LoadedText)


def test_a_bundled_model_is_a_folder_of_the_package(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(bundled, "files", lambda _package: tmp_path)
    with pytest.raises(ModelNotFoundError, match="missing from this installation"):
        load("garments-mmdit")
    (tmp_path / "garments_mmdit").symlink_to(saved[1])
    loaded = load("garments-mmdit")
    assert (loaded.name, loaded.note) == ("garments-mmdit", bundled.GARMENTS.note)
    latents = loaded.pipeline.default_sample_size * loaded.pipeline.vae_scale_factor
    assert latents == bundled.GARMENTS.side
