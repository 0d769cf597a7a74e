"""All packaged models, by what they read and by name."""

from attnchain.models.dinov2_saliency import DINOV2_SALIENCY
from attnchain.models.minilm import MINILM
from attnchain.models.packaged import Package
from attnchain.models.smollm2 import SMOLLM2
from attnchain.models.terrain_unet import TERRAIN_UNET
from attnchain.models.whisper_tiny import WHISPER_TINY

PICTURES = DINOV2_SALIENCY
SHELF: dict[str, Package] = {
    package.name: package
    for package in (PICTURES, SMOLLM2, MINILM, WHISPER_TINY, TERRAIN_UNET)
}
