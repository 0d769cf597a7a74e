"""Better samples: diffusion models steered away from blurred salient regions.

`guide` runs around any diffusers pipeline; `AttentionGuidance` says how. The same
guidance as a guider of diffusers' modular pipelines is in
`attnchain.guidance.guider`, which needs diffusers.
"""

from attnchain.guidance.degrading import NoiseLevel
from attnchain.guidance.salience import Salience
from attnchain.guidance.settings import AttentionGuidance
from attnchain.guidance.steering import Guided, guide

__all__ = [
    "AttentionGuidance",
    "Guided",
    "NoiseLevel",
    "Salience",
    "guide",
]
