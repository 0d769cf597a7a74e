"""The backbone inside the packaged ONNX graph, under transformers' classic names."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attnchain.errors import ModelNotFoundError

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

BACKBONE = "backbone."
POSITIONS = ("onnx::Concat_1957", "onnx::Reshape_1962")


def backbone_tensors(graph: "GraphProto") -> dict[str, Tensor]:
    """Return a DINOv2 backbone's tensors from a graph that torch exported.

    Biases, norms and scales carry their names in the graph. The matrices are
    anonymous, and their order there is not that of query, key and value: each takes
    its name from the bias that is added to its product, and is transposed, for the
    graph computes x W and torch x Wᵀ. The position table is stored as a class row and
    a grid. The mask token, unused at inference, is not in the graph and is zero.

    Args:
        graph: The graph; everything outside its backbone is left out.

    Returns:
        Tensors by their names in the first DINOv2 checkpoints of transformers.

    Raises:
        ModelNotFoundError: A matrix has no bias to be named by, or a table is missing.
    """
    from onnx import numpy_helper

    constants = {
        tensor.name: torch.tensor(numpy_helper.to_array(tensor))
        for tensor in graph.initializer
    }
    named = {
        name.removeprefix(BACKBONE): value
        for name, value in constants.items()
        if name.startswith(BACKBONE)
    }
    for matrix, name in _matrix_names(graph, set(constants)).items():
        named[name] = constants[matrix].T.contiguous()
    if missing := [name for name in POSITIONS if name not in constants]:
        raise ModelNotFoundError(
            f"the packaged graph has no position table ({', '.join(missing)}); "
            "it is not the graph this version of attnchain knows"
        )
    table = torch.cat([constants[name] for name in POSITIONS], dim=1)
    named["embeddings.position_embeddings"] = table
    named["embeddings.mask_token"] = torch.zeros(1, table.shape[-1])
    return named


def _matrix_names(graph: "GraphProto", constants: set[str]) -> dict[str, str]:
    """Name each constant matrix after the bias that is added to its product."""
    consumers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for source in node.input:
            consumers.setdefault(source, []).append(node)
    names = {}
    for node in graph.node:
        if node.op_type != "MatMul" or node.input[1] not in constants:
            continue
        biases = [
            source
            for consumer in consumers.get(node.output[0], [])
            if consumer.op_type == "Add"
            for source in consumer.input
            if source in constants and source.endswith(".bias")
        ]
        if len(biases) != 1 or not biases[0].startswith(BACKBONE):
            raise ModelNotFoundError(
                f"the packaged graph adds {biases or 'no bias'} to the product with "
                f"{node.input[1]}, so that matrix cannot be named"
            )
        stem = biases[0].removeprefix(BACKBONE).removesuffix("bias")
        names[node.input[1]] = f"{stem}weight"
    return names
