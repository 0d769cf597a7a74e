"""A folder of pictures, and a tiny model in a folder."""

import pytest
from tests.vision import tiny


@pytest.fixture(scope="package")
def tiny_folder(tmp_path_factory):
    """A DINOv2 of two layers with two heads."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny.dinov2().model.save_pretrained(folder)
    return folder


@pytest.fixture
def photos(tmp_path):
    """Two folders with a picture of one name, and two of one stem above them."""
    root = tmp_path / "photos"
    for place in ("a/1.png", "b/1.png", "x.png", "x.bmp"):
        file = root / place
        file.parent.mkdir(parents=True, exist_ok=True)
        tiny.picture().save(file)
    return root
