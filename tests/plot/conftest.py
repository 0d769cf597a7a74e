"""A picture whose attention is read once for all figures."""

import pytest
from tests.vision import tiny

from attnchain.vision import read_attention


@pytest.fixture(scope="package")
def model():
    return tiny.dinov2()


@pytest.fixture(scope="package")
def attention(model):
    return read_attention(tiny.picture(), model, size=64)
