"""Tiny pipelines with weights that matter."""

import pytest
from tests.guidance.drawn import stir


@pytest.fixture
def stable_diffusion():
    from attnchain.testing.models import pipelines

    pipeline = pipelines.stable_diffusion()
    stir(pipeline.unet)
    return pipeline
