"""Models by name, and pictures as their pixels.

load: a model with what turns its input into tensors.
origin, versions, weights_digest, file_digest: what is written beside a result.
of_kind: what `load` returned, of one kind or an error.
LoadedModel: for pictures, what `load` returns, with its token layout.
LoadedText: for text, with its tokenizer.
LoadedSpeech: for sound, likewise.
LoadedDenoiser: a diffusion model, with its noise.
LoadedPipeline: for pictures from text, a pipeline of diffusers.
ObjectProbe, read_probe: how much of a patch lies on an object, a linear reading.
layer_stack: the layers of a transformer.
read_frames: a video file, or a folder of its frames, one by one.
read_picture: a picture file as RGB, upright, or one clear line of error.
"""

from attnchain.models.denoisers import LoadedDenoiser
from attnchain.models.frames import Frame, read_frames
from attnchain.models.loaded import LoadedModel, layer_stack
from attnchain.models.loaded_pipeline import LoadedPipeline
from attnchain.models.loaded_text import LoadedSpeech, LoadedText
from attnchain.models.loading import load, of_kind
from attnchain.models.origins import origin, versions, weights_digest
from attnchain.models.pictures import PICTURE_ENDINGS, read_picture, to_rgb
from attnchain.models.probes import ObjectProbe, read_probe
from attnchain.models.wheels import file_digest

__all__ = [
    "PICTURE_ENDINGS",
    "Frame",
    "LoadedDenoiser",
    "LoadedModel",
    "LoadedPipeline",
    "LoadedSpeech",
    "LoadedText",
    "ObjectProbe",
    "file_digest",
    "layer_stack",
    "load",
    "of_kind",
    "origin",
    "read_frames",
    "read_picture",
    "read_probe",
    "to_rgb",
    "versions",
    "weights_digest",
]
