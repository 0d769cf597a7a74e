"""A tiny random model, one page of it, and a real browser where there is one."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from attnchain.models import LoadedModel
from attnchain.page import collect, write_page

FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update"),
    "--disable-sync",
)


@pytest.fixture(scope="session")
def tiny():
    """A DINOv2 of 5 layers x 3 heads whose attention is far from uniform."""
    pytest.importorskip("transformers")
    import transformers

    torch.manual_seed(1)
    config = transformers.Dinov2Config(
        hidden_size=48,
        num_hidden_layers=5,
        num_attention_heads=3,
        mlp_ratio=2,
        patch_size=8,
        image_size=64,
        initializer_range=0.25,
        attn_implementation="sdpa",
    )
    return LoadedModel(
        name="tiny",
        note="Random weights <of no worth>.",
        model=transformers.Dinov2Model(config).eval(),
        patch_size=8,
        prefix=1,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    )


@pytest.fixture(scope="session")
def picture():
    """A picture of 10 x 7 patches, two halves and noise."""
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 90, (56, 80, 3))
    noise[:, 40:] += 120
    return Image.fromarray(noise.astype(np.uint8))


@pytest.fixture(scope="session")
def data(tiny, picture):
    return collect(tiny, picture, title='two <halves> & "noise".png', size=80)


@pytest.fixture(scope="session")
def page_file(data, tmp_path_factory):
    return write_page(tmp_path_factory.mktemp("page") / "page.html", data)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    """Opens pages in new profiles: chromium(file, **context options)."""
    sync_api = pytest.importorskip("playwright.sync_api")
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_api.sync_playwright() as playwright:
        try:
            launched = playwright.chromium.launch(
                executable_path=found, args=list(FLAGS), timeout=0
            )
        except sync_api.Error as error:
            pytest.skip(f"no browser starts here: {str(error).splitlines()[0]}")
        yield launched
        launched.close()


@pytest.fixture
def open_page(chromium):
    """Opens an address and returns the page, what it asked for and what it said.

    The page's own policy forbids evaluation from outside; with `numbers=True` it is
    lifted, so that a test can read whole vectors.
    """
    contexts = []

    def opened(address, *, numbers=False, ready=True, script=None, **options):
        context = chromium.new_context(bypass_csp=numbers, **options)
        context.set_default_timeout(0)  # however busy the machine is
        contexts.append(context)
        page = context.new_page()
        seen = SimpleNamespace(page=page, requests=[], said=[])
        page.on("request", lambda request: seen.requests.append(request.url))
        page.on("console", lambda message: seen.said.append(message.text))
        page.on("pageerror", lambda error: seen.said.append(str(error)))
        if script:
            page.add_init_script(script)
        page.goto(str(address))
        if ready:
            settle(page)
        return seen

    yield opened
    for context in contexts:
        context.close()


def settle(page):
    """Waits until the page shows the newest answer."""
    page.locator('#view[aria-busy="false"]').wait_for(state="attached")


@pytest.fixture(name="settle")
def _settle():
    return settle
