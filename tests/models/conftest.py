"""A tiny backbone as weights and as an ONNX graph."""

import zipfile

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from attnchain.models import dinov2_saliency, packaged

WIDTH, LAYERS, PATCH, GRID = 12, 2, 2, 3
TINY = {
    "model_type": "dinov2",
    "architectures": ["Dinov2Model"],
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "mlp_ratio": 2,
    "patch_size": PATCH,
    "image_size": PATCH * GRID,
}
MATRICES = {
    "attention.attention.key": (WIDTH, WIDTH),
    "attention.attention.value": (WIDTH, WIDTH),
    "attention.attention.query": (WIDTH, WIDTH),
    "attention.output.dense": (WIDTH, WIDTH),
    "mlp.fc1": (2 * WIDTH, WIDTH),
    "mlp.fc2": (WIDTH, 2 * WIDTH),
}


def tiny_weights():
    """Random tensors under the names of transformers' first DINOv2 checkpoints."""
    shapes = {
        "embeddings.cls_token": (1, 1, WIDTH),
        "embeddings.mask_token": (1, WIDTH),
        "embeddings.position_embeddings": (1, GRID**2 + 1, WIDTH),
        "embeddings.patch_embeddings.projection.weight": (WIDTH, 3, PATCH, PATCH),
        "embeddings.patch_embeddings.projection.bias": (WIDTH,),
        "layernorm.weight": (WIDTH,),
        "layernorm.bias": (WIDTH,),
    }
    for layer in range(LAYERS):
        stem = f"encoder.layer.{layer}."
        for name, shape in MATRICES.items():
            shapes |= {f"{stem}{name}.weight": shape, f"{stem}{name}.bias": shape[:1]}
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            shapes[stem + name] = (WIDTH,)
        shapes |= {f"{stem}layer_scale{i}.lambda1": (WIDTH,) for i in (1, 2)}
    generator = torch.Generator().manual_seed(1)
    weights = {n: torch.randn(s, generator=generator) for n, s in shapes.items()}
    weights["embeddings.mask_token"].zero_()
    return weights


def tiny_graph(weights, *, seed=0, without=()):
    """The layout torch exports: anonymous transposed matrices, biases by name.

    The seed shuffles the matrices, so that neither their numbers nor the order of
    the products tells their names.
    """
    table = weights["embeddings.position_embeddings"]
    constants = {
        "onnx::Concat_1957": table[:, :1],
        "onnx::Reshape_1962": table[:, 1:],
        "decoder.final_conv.weight": torch.ones(1, WIDTH, 1, 1),
    }
    matrices = [f"encoder.layer.{i}.{name}" for i in range(LAYERS) for name in MATRICES]
    skip = {f"{name}.weight" for name in matrices}
    skip |= {"embeddings.position_embeddings", "embeddings.mask_token"}
    constants |= {f"backbone.{n}": w for n, w in weights.items() if n not in skip}
    nodes = [
        helper.make_node("MatMul", ["queries", "keys"], ["scores"]),
        helper.make_node("Mul", ["product0", "backbone.layernorm.bias"], ["scaled"]),
    ]
    for place, index in enumerate(np.random.default_rng(seed).permutation(12)):
        name, matrix = matrices[index], f"onnx::MatMul_{1966 + place}"
        constants[matrix] = weights[f"{name}.weight"].T
        summands = [f"backbone.{name}.bias", f"product{place}"]
        nodes += [
            helper.make_node("MatMul", [f"input{place}", matrix], [summands[1]]),
            helper.make_node("Add", summands[:: 1 - 2 * (place % 2)], [f"sum{place}"]),
        ]
    picture = helper.make_tensor_value_info("input_image", TensorProto.FLOAT, None)
    initializers = [
        numpy_helper.from_array(value.contiguous().numpy(), name)
        for name, value in constants.items()
        if name not in without
    ]
    return helper.make_graph(nodes, "tiny", [picture], [picture], initializers)


@pytest.fixture
def tiny():
    """The builders above, for tests that vary them."""
    return tiny_weights, tiny_graph


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty model cache of its own."""
    monkeypatch.setenv("ATTNCHAIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def shipped(monkeypatch):
    """Puts files in the place of every wheel: no pip, no network."""

    def ship(files):
        def fetch(_wheel, folder, **_):
            with zipfile.ZipFile(folder / "stand_in.whl", "w") as archive:
                for name, content in files.items():
                    archive.writestr(name, content)
            return folder / "stand_in.whl"

        monkeypatch.setattr(packaged, "fetch_wheel", fetch)
        return fetch

    return ship


@pytest.fixture
def tiny_package(cache, monkeypatch, shipped):
    """The packaged picture model replaced by the tiny one."""
    model = helper.make_model(tiny_graph(tiny_weights()))
    monkeypatch.setattr(dinov2_saliency, "CONFIG", TINY)
    shipped({dinov2_saliency.GRAPH: model.SerializeToString()})
    return cache
