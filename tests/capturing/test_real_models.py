"""Trained models out of Python packages; skipped where these cannot be had."""

import pytest
import torch
from tests.capturing import references

from attnchain.capturing import TextTokens, capture
from attnchain.errors import ModelNotFoundError
from attnchain.models import load
from attnchain.testing.models import TinyModel

pytestmark = pytest.mark.slow


def packaged(name):
    """A packaged model, fetched on first use."""
    try:
        return load(name)
    except ModelNotFoundError as error:
        pytest.skip(f"the package cannot be had here: {error}")


def assert_own(running):
    """Inputs of later layers differ by rounding between the two runs: 5e-5."""
    expected = references.eager_output(running)
    with capture(running.model) as attention:
        running.run()
    assert len(attention) == len(expected)
    for record, matrix in zip(attention, expected, strict=True):
        torch.testing.assert_close(record.probabilities(), matrix, atol=5e-5, rtol=0)
    return attention


def test_a_sentence_encoder():
    loaded = packaged("all-minilm-l6-v2")
    model, tokenizer = loaded.model, loaded.tokenizer
    texts = ["A cat sits on a windowsill.", "Transmogrification."]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    attention = assert_own(TinyModel(model, kwargs=dict(batch)))
    assert attention.n_layers == {"self": 6}
    words = TextTokens.of(tokenizer, texts[0])
    [position] = words.find("cat")
    assert tokenizer.convert_ids_to_tokens(batch["input_ids"][0])[position] == "cat"
    assert len(TextTokens.of(tokenizer, texts[1]).find("transmogrification")) > 1


def test_a_chat_model():
    loaded = packaged("smollm2-135m-instruct")
    text = "The capital of France is"
    attention = assert_own(TinyModel(loaded.model, kwargs=loaded.tokens(text)))
    assert attention.n_layers == {"self": 30}
    assert all(record.causal and record.shape[1] == 9 for record in attention)
    with torch.no_grad():
        scores = loaded.model(**loaded.tokens(text)).logits[0, -1]
    assert loaded.tokenizer.decode(scores.argmax()) == " Paris"


def test_a_speech_recogniser():
    loaded = packaged("whisper-tiny.en")
    time = torch.arange(3000) / 100
    pitch = torch.arange(80)[:, None]
    sound = torch.sin(time * (1 + pitch / 9)) * torch.exp(-pitch / 40)
    prompt = torch.tensor([[50257, 50362, 383, 3797]])
    running = TinyModel(
        loaded.model,
        kwargs={"input_features": sound[None], "decoder_input_ids": prompt},
    )
    attention = assert_own(running)
    assert attention.n_layers == {"self": 8, "cross": 4}
    assert [r.causal for r in attention if r.site.kind == "self"] == [False] * 4 + [
        True
    ] * 4
    [cross] = attention.matching(layers=-1, kind="cross")
    assert cross.shape == (1, 6, 4, 1500)
    assert str(cross.key_grid) == "1 x 1500 patches"
