"""Labels that are wrong with unknown probabilities: which classes flow into which.

`VolumeMinimized` trains any torch classifier on noisy labels and finds the chain that
made them noisy, after VolMinNet (Li et al., arXiv 2102.02400), without examples whose
class is certain.
"""

from attnchain.noise.classifier import VolumeMinimized
from attnchain.noise.label_noise import (
    NoiseTransition,
    log_volume,
    noisy_label_loss,
    transition_error,
)
from attnchain.noise.scatter import rivals, scattering

__all__ = [
    "NoiseTransition",
    "VolumeMinimized",
    "log_volume",
    "noisy_label_loss",
    "rivals",
    "scattering",
    "transition_error",
]
