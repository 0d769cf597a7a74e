"""A picture whose attention is read once for all figures."""

import pytest
from tests.tasks import tiny

from attnchain.tasks import read_attention


@pytest.fixture(scope="package")
def model():
    return tiny.dinov2()


@pytest.fixture(scope="package")
def attention(model):
    return read_attention(tiny.picture(), model, size=64)
