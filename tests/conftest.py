"""One thread, fixed seeds, bounded hypothesis runs, GPU tests only with a GPU."""

import hypothesis
import pytest
import torch

import attnchain  # noqa: F401  it repairs a torchvision that was built for another torch

hypothesis.settings.register_profile(
    "attnchain",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],  # the other clock
    derandomize=True,
    database=None,
    max_examples=40,
)
hypothesis.settings.load_profile("attnchain")


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _fixed_seed():
    torch.manual_seed(0)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A DINOv2 of two layers with two heads, as `--model` takes it."""
    from tests.vision import tiny

    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny.dinov2().model.save_pretrained(folder)
    return folder


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
