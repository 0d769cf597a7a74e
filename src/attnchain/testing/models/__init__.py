"""Tiny models with random weights, built from their configurations, no downloads.

Each builder returns a `TinyModel`: a model in evaluation mode and an input, with
weights large enough for attention to be far from uniform.

* `vision`: ViT, DINOv2, DINOv3, DeiT, CLIP, SigLIP, Swin; timm; open_clip
* `text`: BERT, CLIP text, Llama, T5, Whisper; torch's encoder; a module of one's own
* `diffusion`: the UNets of DDPM, SD 1 and SDXL; SD 3.5, FLUX.1, DiT, PixArt, Lumina 2
* `pipelines`: diffusers pipelines around them
* `tokenizers`: tokenizers like those of CLIP, T5, GPT-2 and BERT, made on the spot
"""

from attnchain.testing.models.shim import importable_torchvision
from attnchain.testing.models.tiny import TinyModel

__all__ = ["TinyModel", "importable_torchvision"]
