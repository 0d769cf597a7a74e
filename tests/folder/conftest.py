"""A folder of pictures."""

import pytest
from tests.vision import tiny


@pytest.fixture
def photos(tmp_path):
    """Two folders with a picture of one name, and two of one stem above them."""
    root = tmp_path / "photos"
    for place in ("a/1.png", "b/1.png", "x.png", "x.bmp"):
        file = root / place
        file.parent.mkdir(parents=True, exist_ok=True)
        tiny.picture().save(file)
    return root
