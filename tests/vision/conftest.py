"""A tiny random DINOv2, two layers of two heads, and what it attends to."""

import pytest
from tests.vision import tiny

from attnchain.vision import read_attention


@pytest.fixture(scope="package")
def model():
    return tiny.dinov2()


@pytest.fixture(scope="package")
def attention(model):
    """Of a picture of 5 x 8 patches."""
    return read_attention(tiny.picture(), model, size=64)
