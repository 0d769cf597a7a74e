"""`generate`: the prompt is pass 0 of every part, each token is the model's own."""

import pytest
import torch
from tests.capturing import zoo

from attnchain.capturing import capture
from attnchain.errors import ShapeError
from attnchain.testing.models import importable_torchvision

PADDED = torch.ones(2, 6, dtype=torch.long)
PADDED[1, :2] = 0
GREEDY = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
WEIGHTS = {"output_attentions": True, "return_dict_in_generate": True}

DECODERS = {
    "Qwen2": {},
    "Mistral": {"sliding_window": 3},
    "Llama": {"num_attention_heads": 8, "num_key_value_heads": 1},
    "Phi3": {},
}


def assert_own(record, matrix, live):
    """Equal where queries are live; a fully masked row is even in eager attention."""
    assert record.shape == matrix.shape
    difference = (record.probabilities() - matrix).abs() * live
    assert float(difference.max()) < 1e-5


@pytest.mark.parametrize("cache", [None, "static"])
@pytest.mark.parametrize("name", DECODERS)
def test_heads_of_one_query_that_share_keys(name, cache):
    """transformers reshapes (B, H, 1, d) to (B, key heads, H / key heads, d)."""
    model = zoo.decoder(name, **DECODERS[name])
    options = {**GREEDY, "attention_mask": PADDED, "cache_implementation": cache}
    prompt = zoo.tokens(2, 6)
    with capture(model) as attention:
        model.generate(prompt, **options)
    expected = zoo.eager_twin(model).generate(prompt, **options, **WEIGHTS).attentions
    for number, layers in enumerate(expected):
        live = 1 if number else PADDED[:, None, :, None]
        for layer, matrix in enumerate(layers):
            [record] = attention.matching(layers=layer, forwards=number)
            assert_own(record, matrix, live)


@pytest.mark.parametrize("name", ["GPTNeoX", "GPTBigCode", "GPT2"])
def test_decoding_is_self_attention(name):
    importable_torchvision()
    kind = "GPT2LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM"
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32}
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    model = zoo.transformers_model(
        kind, f"{name}Config", vocab_size=60, **sizes, **special
    )
    with capture(model) as attention:
        model.generate(zoo.tokens(1, 5), **GREEDY)
    sites = [(r.site.kind, r.site.layer, r.site.forward) for r in attention]
    assert sites == [("self", layer, n) for n in range(3) for layer in range(2)]
    assert attention.select(layers=-1, forwards=0).n_states == 5


@pytest.mark.parametrize("build", [zoo.t5, zoo.bart])
def test_the_first_step_of_a_decoder_is_pass_0(build):
    model = build()
    prompt = zoo.tokens(1, 6)
    with capture(model) as attention:
        model.generate(prompt, **GREEDY)
    encoder = attention.matching(name="*encoder.*", kind="self")
    assert [r.site.forward for r in encoder] == [0, 0]
    decoder = attention.matching(name="*decoder.*", kind="self")
    assert [r.site.forward for r in decoder] == [0, 0, 1, 1, 2, 2]
    twin = zoo.eager_twin(model).generate(prompt, **GREEDY, **WEIGHTS)
    for number, layers in enumerate(twin.cross_attentions):
        records = attention.matching(kind="cross", forwards=number)
        for record, matrix in zip(records, layers, strict=True):
            assert_own(record, matrix, 1)


def picture_prompt(family):
    """A model, its prompt with a picture inside, and the arguments of generate."""
    if family == "paligemma":
        prompt = torch.cat([torch.full((1, 16), zoo.PICTURE), zoo.tokens(1, 5)], 1)
        options = {"token_type_ids": torch.zeros_like(prompt)}
        options |= {"pixel_values": zoo.numbers(1, 3, 32, 32)}
        return zoo.paligemma(), prompt, options
    picture = torch.tensor([[56, *[zoo.PICTURE] * 4, 57]])
    prompt = torch.cat([picture, picture, zoo.tokens(1, 4)], 1)
    options = {
        "pixel_values": zoo.numbers(32, 96),
        "image_grid_thw": torch.tensor([[1, 4, 4], [1, 4, 4]]),
        "mm_token_type_ids": (prompt == zoo.PICTURE).long(),
    }
    return zoo.qwen2_vl(), prompt, options


@pytest.mark.parametrize("family", ["paligemma", "qwen2_vl"])
def test_the_prompt_of_a_vision_language_model_is_pass_0(family):
    model, prompt, options = picture_prompt(family)
    options |= {"attention_mask": torch.ones_like(prompt)}
    with capture(model) as attention:
        model.generate(input_ids=prompt, **options, **GREEDY)
    chain = attention.select(layers=-1, forwards=0)
    assert chain.n_states == prompt.shape[1]
    twin = zoo.eager_twin(model).generate(prompt, **options, **GREEDY, **WEIGHTS)
    last = twin.attentions[0][-1]
    torch.testing.assert_close(chain.to_dense(), last, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["paligemma", "qwen2_vl"])
def test_a_part_given_as_root_has_its_own_passes(family):
    model, prompt, options = picture_prompt(family)
    part = model.model.language_model
    with capture(part, forwards=0) as attention, torch.no_grad():
        model(input_ids=prompt, attention_mask=torch.ones_like(prompt), **options)
    assert {r.shape[-1] for r in attention} == {prompt.shape[1]}
    assert attention.n_forwards == 1


def test_layers_of_a_chosen_name_are_counted_back_among_them():
    model, prompt, options = picture_prompt("paligemma")
    mask = torch.ones_like(prompt)
    with capture(model, name="*vision_tower*", layers=-1) as attention:
        model.generate(input_ids=prompt, attention_mask=mask, **options, **GREEDY)
    assert [r.site.name for r in attention] == [
        "model.vision_tower.encoder.layers.1.self_attn"
    ]


@pytest.mark.parametrize("name", ["Llama", "Bloom", "Gemma2"])
def test_the_prompt_is_a_chain_with_a_static_cache_too(name):
    """Places of the cache that are empty yet are no states."""
    options = {"Bloom": {"n_layer": 2, "n_head": 4}, "Gemma2": {"sliding_window": 4}}
    model = zoo.decoder(name, **options.get(name, {}))
    prompt = zoo.tokens(2, 6)
    given = {**GREEDY, "attention_mask": PADDED}
    with capture(model) as plain:
        model.generate(prompt, **given)
    with capture(model) as static:
        model.generate(prompt, **given, cache_implementation="static")
    assert static.matching(layers=1, forwards=0)[0].shape[-2:] == (6, 8)
    found = static.select(layers=1, forwards=0)
    expected = plain.select(layers=1, forwards=0)
    torch.testing.assert_close(found.to_dense(), expected.to_dense())
    with pytest.raises(ShapeError, match="same tokens"):
        static.select(layers=1, forwards=1)
