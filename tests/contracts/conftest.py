"""Every test here that asks for `pair` runs on every case of tests/operators/cases."""

import pytest
from tests.operators.cases import CASES


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def pair(request):
    """A transition and its dense float64 twin."""
    return request.param()
