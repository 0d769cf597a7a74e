"""The terrain denoiser: a U-Net of height maps, out of an ONNX file."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile

import torch
from torch import Tensor

from attnchain.errors import ModelNotFoundError
from attnchain.models.packaged import Package, write_settings, write_weights

if TYPE_CHECKING:
    from onnx import GraphProto

GRAPH = "terrain_diffusion/weights/terrain_consistency_unet_difficulty100.onnx"
LAYERS = 4
WITH_ATTENTION = (2, 3, 4)
WIDTHS = (32, 32, 64, 96, 128)
DOWN = ("ResnetDownsampleBlock2D", "AttnDownBlock2D")
UP = ("ResnetUpsampleBlock2D", "AttnUpBlock2D")
CONFIG: dict[str, Any] = {
    "model_type": "terrain-unet",
    "sample_size": 128,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": WIDTHS,
    "layers_per_block": LAYERS,
    "down_block_types": [DOWN[level in WITH_ATTENTION] for level in range(5)],
    "up_block_types": [UP[level in WITH_ATTENTION] for level in reversed(range(5))],
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "attention_head_dim": 32,
    "resnet_time_scale_shift": "scale_shift",
    "class_embed_type": "identity",
    "norm_num_groups": 32,
    "attn_norm_num_groups": 32,
    "norm_eps": 1e-5,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
}
RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
ATTENTION = {"norm": "group_norm", "qkv": "qkv", "proj_out": "to_out.0"}
ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0": "class_embedding.0",
    "label_emb.2": "class_embedding.2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
NORMS = ("in_layers.0", "out_layers.0", "norm", "out.0")
"""Endings of the names of group norms, which the graph does not name."""


def convert(archive: ZipFile, folder: Path) -> None:
    """Write the network of the packaged graph under the names of diffusers."""
    import onnx

    graph = onnx.load_model_from_string(archive.read(GRAPH)).graph
    write_weights(folder, unet_tensors(graph))
    write_settings(folder / "config.json", CONFIG)


def unet_tensors(graph: "GraphProto") -> dict[str, Tensor]:
    """Return the tensors of a consistency U-Net from a graph that torch exported.

    Convolutions and linear layers carry the names of guided-diffusion. Group norms are
    anonymous, and are named by their order, which is that in which they run.

    Args:
        graph: The graph; what stands around the network is left out.

    Returns:
        Tensors by their names in diffusers' `UNet2DModel`, with the embedding of the
        difficulty as its `class_embedding`.

    Raises:
        ModelNotFoundError: It is another network.
    """
    from onnx import numpy_helper

    constants = {
        tensor.name: torch.tensor(numpy_helper.to_array(tensor))
        for tensor in graph.initializer
    }
    names = dict(_layers())
    norms = [name for name in names if name.endswith(NORMS)]
    pairs = list(_norm_pairs(graph, constants))
    state: dict[str, Tensor] = {}
    try:
        for name, (weight, bias) in zip(norms, pairs, strict=True):
            state[f"{names[name]}.weight"] = constants[weight].flatten()
            state[f"{names[name]}.bias"] = constants[bias].flatten()
        for name, value in constants.items():
            layer, _, kind = name.removeprefix("network.").rpartition(".")
            if name.startswith("network."):
                state |= _placed(names[layer], kind, value)
    except (KeyError, ValueError) as error:
        raise ModelNotFoundError(
            f"the packaged graph is not the network this version of attnchain knows "
            f"({len(pairs)} norms, expected {len(norms)}; {error})"
        ) from error
    return state


def _layers() -> Iterator[tuple[str, str]]:
    """Names of layers in guided-diffusion and in diffusers, as they run."""
    ends = list(ENDS.items())
    yield from ends[:-2]
    for source, target in _blocks():
        table = ATTENTION if ".attentions." in target else RESIDUAL
        for old, new in table.items():
            yield f"{source}.{old}", f"{target}.{new}"
    yield from ends[-2:]


def _blocks() -> Iterator[tuple[str, str]]:
    """Residual and attention blocks, likewise."""
    levels, number = len(WIDTHS), 1
    for level in range(levels):
        for layer in range(LAYERS):
            source, target = f"input_blocks.{number}", f"down_blocks.{level}"
            yield f"{source}.0", f"{target}.resnets.{layer}"
            if level in WITH_ATTENTION:
                yield f"{source}.1", f"{target}.attentions.{layer}"
            number += 1
        if level < levels - 1:
            yield f"input_blocks.{number}.0", f"down_blocks.{level}.downsamplers.0"
            number += 1
    yield "middle_block.0", "mid_block.resnets.0"
    yield "middle_block.1", "mid_block.attentions.0"
    yield "middle_block.2", "mid_block.resnets.1"
    for number in range(levels * (LAYERS + 1)):
        place, layer = divmod(number, LAYERS + 1)
        source, target = f"output_blocks.{number}", f"up_blocks.{place}"
        attends = levels - 1 - place in WITH_ATTENTION
        yield f"{source}.0", f"{target}.resnets.{layer}"
        if attends:
            yield f"{source}.1", f"{target}.attentions.{layer}"
        if layer == LAYERS and place < levels - 1:
            yield f"{source}.{1 + attends}", f"{target}.upsamplers.0"


def _norm_pairs(
    graph: "GraphProto", constants: Mapping[str, Tensor]
) -> Iterator[list[str]]:
    """The weight and bias that follow each normalisation, in the graph's order."""
    following = {source: node for node in graph.node for source in node.input}
    for node in graph.node:
        if node.op_type != "InstanceNormalization":
            continue
        found = []
        for _ in ("Reshape", "Mul", "Add"):
            node = following[node.output[0]]  # noqa: PLW2901
            found += [source for source in node.input if source in constants]
        yield found[-2:]


def _placed(target: str, kind: str, value: Tensor) -> dict[str, Tensor]:
    """One tensor by its name in diffusers; queries, keys and values taken apart."""
    if ".attentions." not in target:
        return {f"{target}.{kind}": value}
    matrix = value.flatten(1) if value.ndim > 1 else value
    stem, _, last = target.rpartition(".")
    if last != "qkv":
        return {f"{target}.{kind}": matrix}
    parts = zip(("to_q", "to_k", "to_v"), matrix.chunk(3), strict=True)
    return {f"{stem}.{part}.{kind}": chunk for part, chunk in parts}


TERRAIN_UNET = Package(
    name="terrain-unet",
    note=(
        "A U-Net with self-attention that draws height maps in one step (consistency "
        "model of the adaptive-terrain-diffusion 0.4.2 package, MIT)."
    ),
    wheel="adaptive-terrain-diffusion==0.4.2",
    sha256="dd803be2c98d764e4e64db18c631eef46c210282b398c4dd080f4cda3fa7c84d",
    extra="diffusers",
    needs=("onnx",),
    convert=convert,
)
