"""A loaded text-to-image pipeline, and all of its networks as one module."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn


@dataclass(frozen=True, eq=False)
class LoadedPipeline:
    """A diffusion pipeline, ready to draw and to be read.

    Attributes:
        name: The name it was loaded by.
        note: One sentence on what the weights are; show it beside results.
        pipeline: That of diffusers, without a progress bar.
    """

    name: str
    note: str
    pipeline: Any

    @cached_property
    def model(self) -> nn.Module:
        """The pipeline's own networks, each under its name: denoiser, encoders."""
        parts = self.pipeline.components.items()
        return nn.ModuleDict({n: m for n, m in parts if isinstance(m, nn.Module)})
