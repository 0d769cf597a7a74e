"""Requests in transformers' continuous batching, against each one run alone, eager."""

import numpy as np
import pytest
import torch
from tests.capturing import zoo

from attnchain.errors import CaptureError, UnsupportedModelError
from attnchain.language import serve_attention
from attnchain.markov import second_eigenvalue
from attnchain.ranking import token_rank

PROMPTS = {
    "long": zoo.tokens(21, seed=1).tolist(),
    "short": zoo.tokens(3, seed=2).tolist(),
    "middle": zoo.tokens(9, seed=3).tolist(),
}


def engine(model, **options):
    """The engine of transformers with a small cache: prompts are read in pieces."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    sizes = {"num_blocks": 24, "page_size": 8, "max_batch_tokens": 8}
    sharing = {"allow_block_sharing": False}
    greedy = GenerationConfig(
        max_new_tokens=4, do_sample=False, eos_token_id=-1, pad_token_id=0
    )
    return model.continuous_batching_context_manager(
        generation_config=greedy,
        continuous_batching_config=ContinuousBatchingConfig(
            **sizes | sharing | options
        ),
    )


def answers(manager, prompts):
    """The tokens that each request was answered with; all are there at once."""
    with manager.pause():
        for name, ids in prompts.items():
            manager.add_request(ids, request_id=name)
    done = {}
    while len(done) < len(prompts):
        result = manager.get_result(timeout=1)
        assert manager.is_running()
        if result is not None and result.is_finished():
            assert result.error is None
            done[result.request_id] = result.generated_tokens
    return done


def alone(model, ids):
    """Eager attention of one text, (layers, heads, n, n), float64."""
    with torch.no_grad():
        given = zoo.eager_twin(model)(torch.tensor([ids]), output_attentions=True)
    return torch.cat(given.attentions).double().numpy()


def stationary(matrix, damping):
    n = len(matrix)
    system = np.eye(n) - damping * matrix.T
    return np.linalg.solve(system, np.full(n, (1 - damping) / n))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["Llama", "Qwen3"])
def test_each_request_has_the_numbers_of_its_own_run(name, attention):
    """Four query heads share two key heads; three requests come in pieces, at once."""
    model = zoo.decoder(name)
    model.set_attn_implementation(attention)
    with engine(model) as manager, serve_attention(manager, chains=True) as served:
        found = answers(manager, PROMPTS)
    assert set(served) == set(PROMPTS)
    for request, ids in PROMPTS.items():
        matrices = alone(model, ids + found[request][:-1])
        own = served[request]
        sums = matrices.sum(-2)
        np.testing.assert_allclose(own.column_sums, sums, atol=1e-5)
        lookers = np.arange(sums.shape[-1], 0, -1)
        np.testing.assert_allclose(own.received, sums / lookers, atol=1e-5)
        for chain, heads in zip(own.chains, matrices, strict=True):
            np.testing.assert_allclose(chain.to_dense(), heads, atol=1e-5)
            ranks = token_rank(chain, damping=0.85).distribution
            expected = [stationary(head, 0.85) for head in heads]
            np.testing.assert_allclose(ranks, expected, atol=1e-5)
            diagonals = np.sort(np.diagonal(heads, axis1=1, axis2=2), -1)[:, -2]
            moduli = second_eigenvalue(chain).modulus
            np.testing.assert_allclose(moduli, diagonals, atol=1e-5)


def test_only_numbers_are_kept_unless_chains_are_asked_for():
    model = zoo.decoder("Llama")
    prompts = {"middle": PROMPTS["middle"]}
    with engine(model) as manager, serve_attention(manager) as served:
        answers(manager, prompts)
    own = served["middle"]
    assert own.chains == ()
    assert own.column_sums.shape == (2, 4, 12)
    with pytest.raises(KeyError):
        served["another"]


def test_the_engine_is_left_as_it_was():
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    model, before = zoo.decoder("Llama"), ALL_ATTENTION_FUNCTIONS["sdpa"]
    prompts = {"middle": PROMPTS["middle"]}
    with engine(model) as manager:
        with serve_attention(manager) as served:
            watched = answers(manager, prompts)
            own = model(torch.tensor([PROMPTS["short"]])).logits
        assert ALL_ATTENTION_FUNCTIONS["sdpa"] is before
        after = answers(manager, {"later": PROMPTS["middle"]})
    assert set(served) == {"middle"}
    assert after["later"] == watched["middle"]
    assert bool(own.isfinite().all())


def test_a_prompt_that_was_read_for_another_is_refused():
    model = zoo.decoder("Llama")
    prompt = PROMPTS["long"]
    shared = engine(model, allow_block_sharing=True)
    with shared as manager, serve_attention(manager) as served:
        answers(manager, {"first": prompt})
        answers(manager, {"again": prompt})
    assert served["first"].column_sums.shape[-1] == len(prompt) + 3
    with pytest.raises(CaptureError, match="allow_block_sharing=False"):
        served["again"]


def test_only_what_is_served_inside_the_block_is_there():
    model = zoo.decoder("Llama")
    with engine(model) as manager:
        answers(manager, {"before": PROMPTS["short"]})
        with serve_attention(manager) as served:
            answers(manager, {"inside": PROMPTS["short"]})
    assert set(served) == {"inside"}


def test_a_request_that_was_put_out_of_the_cache_is_counted_once():
    """The cache is too small for all: some begin again, their answer in the prompt."""
    model, put_out = zoo.decoder("Llama"), []
    prompts = {f"{n}": zoo.tokens(7, seed=n).tolist() for n in range(3)}
    with (
        engine(model, num_blocks=3, max_batch_tokens=24) as manager,
        serve_attention(manager) as served,
    ):
        offloading = manager.batch_processor.offloading_manager
        own = offloading.offload_requests
        offloading.offload_requests = lambda: put_out.append(1) or own()
        found = answers(manager, prompts)
    assert put_out
    for request, ids in prompts.items():
        sums = alone(model, ids + found[request][:-1]).sum(-2)
        np.testing.assert_allclose(served[request].column_sums, sums, atol=1e-5)


def test_a_window_is_no_causal_chain():
    model = zoo.decoder("Mistral", sliding_window=8)
    with engine(model) as manager, serve_attention(manager) as served:
        answers(manager, {"long": PROMPTS["long"]})
    with pytest.raises(CaptureError, match="sliding_attention"):
        served["long"]


def test_engines_that_cannot_be_watched_are_refused():
    from types import SimpleNamespace

    def made(attention, *, several=False, graphs=(False, False)):
        return SimpleNamespace(
            model=SimpleNamespace(
                config=SimpleNamespace(_attn_implementation=attention)
            ),
            continuous_batching_config=SimpleNamespace(
                use_async_batching=several, cuda_graph_booleans=graphs
            ),
        )

    for manager, match in (
        (made("flash_attention_2"), "flash_attention_2"),
        (made("sdpa", several=True), "use_async_batching=False"),
        (made("sdpa", graphs=(True, False)), "use_cuda_graph=False"),
    ):
        with (
            pytest.raises(UnsupportedModelError, match=match),
            serve_attention(manager),
        ):
            pass
