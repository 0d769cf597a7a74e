"""A torchvision that imports, and tiny pipelines with weights that matter."""

import pytest
from tests.guidance.drawn import stir

from attnchain.testing.models.shim import importable_torchvision

importable_torchvision()


@pytest.fixture
def stable_diffusion():
    from attnchain.testing.models import pipelines

    pipeline = pipelines.stable_diffusion()
    stir(pipeline.unet)
    return pipeline
