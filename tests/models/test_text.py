"""Language models by name: text in, the published weights, or a clear error."""

import json
import struct

import gguf
import numpy as np
import pytest
import torch
import transformers

from attnchain.errors import (
    ArgumentError,
    ModelNotFoundError,
    ShapeError,
    UnsupportedModelError,
)
from attnchain.models import (
    LoadedModel,
    LoadedSpeech,
    LoadedText,
    load,
    minilm,
    of_kind,
    smollm2,
    whisper_tiny,
)
from attnchain.testing.models.tokenizers import bert_tokenizer, gpt2_tokenizer

SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 12,
}


def random_llama(vocabulary, **more):
    torch.manual_seed(5)
    config = transformers.LlamaConfig(vocab_size=vocabulary, **(SIZES | more))
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture
def published(tmp_path):
    """A folder of a language model with its tokenizer, and the model."""
    tokenizer = gpt2_tokenizer()
    model = random_llama(len(tokenizer))
    model.save_pretrained(tmp_path / "llama")
    tokenizer.save_pretrained(tmp_path / "llama")
    return tmp_path / "llama", model


def test_a_folder_with_a_tokenizer_is_a_language_model(published):
    folder, model = published
    loaded = load(folder)
    assert isinstance(loaded, LoadedText)
    tokens = loaded.tokens("a cat")
    pieces = loaded.tokenizer.convert_ids_to_tokens(tokens["input_ids"][0])
    assert pieces == ["a", "Ġcat"]
    with torch.no_grad():
        expected, found = model(**tokens).logits, loaded.model(**tokens).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert not loaded.model.training
    assert loaded.model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no token"),
        (3, "must be a string, but is int"),
        ("d" * 13, "has 13 tokens, but .* has positions for 12"),
    ],
)
def test_text_that_cannot_be_read_is_refused(published, text, message):
    with pytest.raises(ArgumentError, match=message):
        load(published[0]).tokens(text)


def test_as_many_tokens_as_positions_are_read(published):
    loaded = load(published[0])
    assert loaded.tokens("d" * 12)["input_ids"].shape == (1, 12)


def test_a_model_of_another_kind_is_refused_by_name(published):
    folder = published[0]
    loaded = load(folder)
    assert of_kind(loaded, LoadedText) is loaded
    with pytest.raises(UnsupportedModelError, match=r"reads text, but .* pictures"):
        of_kind(loaded, LoadedModel)


@pytest.mark.parametrize("named", [None, [], ["A", "B"]])
def test_a_folder_must_name_its_class(published, named):
    file = published[0] / "config.json"
    settings = json.loads(file.read_text()) | {"architectures": named}
    file.write_text(json.dumps(settings))
    with pytest.raises(UnsupportedModelError, match="must name one class"):
        load(published[0])


def test_an_unknown_class_is_named(published):
    file = published[0] / "config.json"
    settings = json.loads(file.read_text()) | {"architectures": ["NoSuchModel"]}
    file.write_text(json.dumps(settings))
    with pytest.raises(UnsupportedModelError, match=r"NoSuchModel .* is not in"):
        load(published[0])


def test_a_damaged_tokenizer_is_an_error_of_ours(published):
    (published[0] / "tokenizer.json").write_text("{")
    with pytest.raises(ModelNotFoundError, match="cannot load the model"):
        load(published[0])


def test_without_a_tokenizer_the_layout_is_not_known(published):
    for file in published[0].glob("*token*"):
        file.unlink()
    with pytest.raises(UnsupportedModelError, match="token layout"):
        load(published[0])


# Packages


@pytest.fixture
def tiny_gguf(tmp_path):
    """A Llama of 4-bit weights with a tokenizer, and those weights by torch's names.

    GGUF keeps the two halves of every rotary pair side by side: row 2 i + s of a head
    is row i + s d / 2 of transformers.
    """
    pieces = json.loads(gpt2_tokenizer().backend_tokenizer.to_str())["model"]
    vocabulary = sorted(pieces["vocab"], key=pieces["vocab"].get)
    model = random_llama(len(vocabulary), tie_word_embeddings=True)
    writer = gguf.GGUFWriter(tmp_path / "tiny.gguf", "llama")
    writer.add_context_length(12)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_freq_base(1e4)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_merges([" ".join(pair) for pair in pieces["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    four_bits, expected = gguf.GGMLQuantizationType.Q4_1, {}
    for name, value in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        array, place = value.numpy(), names.get_name(name, (".weight",))
        heads = {"q_proj": 4, "k_proj": 2}.get(name.split(".")[-2])
        if heads:
            array = array.reshape(heads, 2, -1, 64).swapaxes(1, 2).reshape(value.shape)
        if array.ndim == 1:
            writer.add_tensor(place, array)
        else:
            packed = gguf.quantize(array, four_bits)
            array = gguf.dequantize(packed, four_bits)
            writer.add_tensor(place, packed, raw_dtype=four_bits)
        if heads:
            array = array.reshape(heads, -1, 2, 64).swapaxes(1, 2).reshape(value.shape)
        expected[name] = torch.tensor(array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return (tmp_path / "tiny.gguf").read_bytes(), expected


def test_the_chat_model_has_the_numbers_of_its_4_bits(tiny_gguf, cache, shipped, capfd):
    content, expected = tiny_gguf
    shipped({smollm2.GGUF: content})
    loaded = load("smollm2-135m-instruct")
    found = loaded.model.state_dict()
    tied = found.pop("lm_head.weight")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=0)
    assert torch.equal(tied, found["model.embed_tokens.weight"])
    assert "4-bit" in loaded.note
    pieces = loaded.tokenizer.tokenize("a cat")
    assert pieces == ["a", "Ġcat"]
    config = (cache / loaded.name / "config.json").read_text()
    assert str(cache) not in config
    assert "quantization" not in config
    assert capfd.readouterr() == ("", "")


def test_the_sentence_encoder_is_taken_as_it_is(tmp_path, cache, shipped):
    torch.manual_seed(6)
    tokenizer = bert_tokenizer()
    sizes = {k: v for k, v in SIZES.items() if k != "num_key_value_heads"}
    config = transformers.BertConfig(vocab_size=len(tokenizer), **sizes)
    model = transformers.BertModel(config).eval()
    model.save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    for name in minilm.FILES:
        (tmp_path / "bert" / name).touch()
    shipped(
        {
            f"{minilm.INSIDE}/{file.name}": file.read_bytes()
            for file in (tmp_path / "bert").iterdir()
            if file.stat().st_size
        }
        | {f"{minilm.INSIDE}/vocab.txt": "[PAD]"}
        | {f"{minilm.INSIDE}/special_tokens_map.json": "{}"}
    )
    loaded = load("all-minilm-l6-v2")
    tokens = loaded.tokens("cat")
    with torch.no_grad():
        found = loaded.model(**tokens).last_hidden_state
        expected = model(**tokens).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def packed(arrays):
    """Arrays as CTranslate2 writes them: names end with a zero, 16 bits here."""

    def text(value):
        raw = value.encode() + b"\0"
        return struct.pack("<H", len(raw)) + raw

    parts = [struct.pack("<I", 6), text("Whisper"), struct.pack("<II", 3, len(arrays))]
    for name, array in arrays.items():
        raw = array.astype(np.float16).tobytes()
        parts += [text(name), struct.pack("<B", array.ndim)]
        parts += [struct.pack(f"<{array.ndim}I", *array.shape)]
        parts += [struct.pack("<BI", 4, len(raw)), raw]
    return b"".join([*parts, struct.pack("<I", 0)])


def stacked(state):
    """A Whisper's tensors under the names and stacks of CTranslate2."""

    def pair(source, target, kinds):
        for kind, ending in zip(kinds, ("weight", "bias"), strict=True):
            arrays[f"{target}/{kind}"] = state[f"{source}.{ending}"]

    def stack(source, target, names):
        weights = [state[f"{source}.{name}.weight"] for name in names]
        none = torch.zeros(len(weights[0]))
        biases = [state.get(f"{source}.{name}.bias", none) for name in names]
        arrays[f"{target}/weight"] = torch.cat(weights)
        arrays[f"{target}/bias"] = torch.cat(biases)

    arrays, norm, plain = {}, ("gamma", "beta"), ("weight", "bias")
    for side in ("encoder", "decoder"):
        table = state[f"model.{side}.embed_positions.weight"]
        arrays[f"{side}/position_encodings/encodings"] = table
        pair(f"model.{side}.layer_norm", f"{side}/layer_norm", norm)
        for i in range(2):
            a, b = f"model.{side}.layers.{i}", f"{side}/layer_{i}"
            stack(
                f"{a}.self_attn",
                f"{b}/self_attention/linear_0",
                ["q_proj", "k_proj", "v_proj"],
            )
            stack(f"{a}.self_attn", f"{b}/self_attention/linear_1", ["out_proj"])
            pair(f"{a}.self_attn_layer_norm", f"{b}/self_attention/layer_norm", norm)
            pair(f"{a}.final_layer_norm", f"{b}/ffn/layer_norm", norm)
            pair(f"{a}.fc1", f"{b}/ffn/linear_0", plain)
            pair(f"{a}.fc2", f"{b}/ffn/linear_1", plain)
            if side == "decoder":
                cross = f"{a}.encoder_attn"
                stack(cross, f"{b}/attention/linear_0", ["q_proj"])
                stack(cross, f"{b}/attention/linear_1", ["k_proj", "v_proj"])
                stack(cross, f"{b}/attention/linear_2", ["out_proj"])
                pair(f"{cross}_layer_norm", f"{b}/attention/layer_norm", norm)
    arrays["decoder/embeddings/weight"] = state["model.decoder.embed_tokens.weight"]
    for i in (1, 2):
        pair(f"model.encoder.conv{i}", f"encoder/conv{i}", plain)
    return {name: array.numpy() for name, array in arrays.items()}


@pytest.fixture
def tiny_whisper(cache, monkeypatch, shipped):
    """The packaged speech recogniser replaced by a random one, and its weights."""
    torch.manual_seed(7)
    sizes = {"vocab_size": 60, "d_model": 24, "encoder_layers": 2, "decoder_layers": 2}
    sizes |= {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    settings = whisper_tiny.CONFIG | sizes | tokens | {"decoder_start_token_id": 1}
    config = transformers.WhisperConfig(**settings)
    model = transformers.WhisperForConditionalGeneration(config)
    state = {name: x.half().float() for name, x in model.state_dict().items()}
    monkeypatch.setattr(whisper_tiny, "CONFIG", settings)
    monkeypatch.setattr(whisper_tiny, "LAYERS", 2)
    tokenizer = gpt2_tokenizer().backend_tokenizer.to_str()
    shipped(
        {
            f"{whisper_tiny.INSIDE}/model.bin": packed(stacked(state)),
            f"{whisper_tiny.INSIDE}/tokenizer.json": tokenizer,
        }
    )
    return state


def test_every_weight_of_the_recogniser_finds_its_place(tiny_whisper):
    loaded = load("whisper-tiny.en")
    assert isinstance(loaded, LoadedSpeech)
    found = loaded.model.state_dict()
    assert found.keys() == tiny_whisper.keys()
    for name, value in tiny_whisper.items():
        assert torch.equal(found[name], value), name


def test_half_a_minute_is_heard_at_the_models_rate(tiny_whisper):
    loaded = load("whisper-tiny.en")
    assert loaded.features(torch.zeros(16000), rate=16000).shape == (1, 80, 3000)
    for sound in (torch.zeros(0), torch.zeros(480_001)):
        with pytest.raises(ArgumentError, match="1 to 480,000 samples"):
            loaded.features(sound, rate=16000)
    with pytest.raises(ArgumentError, match="rate must be 16000"):
        loaded.features(torch.zeros(8000), rate=8000)
    with pytest.raises(ShapeError, match="samples"):
        loaded.features(torch.zeros(2, 16000), rate=16000)


def test_another_format_of_weights_is_refused():
    with pytest.raises(ModelNotFoundError, match="format 6, but it is 5"):
        whisper_tiny.read_variables(struct.pack("<I", 5))
