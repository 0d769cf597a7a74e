"""Context-conditioned chains: identity with attention, likelihood, collapse."""

import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional

from attnchain.errors import (
    ArgumentError,
    AssumptionWarning,
    ConvergenceError,
    NotStochasticError,
    ReducibleChainError,
    ShapeError,
)
from attnchain.markov import detailed_balance_error, stationary
from attnchain.methods.ccmc import (
    context_conditioned,
    expected_frequencies,
    fit_prompts,
    fit_trajectory,
    generate,
    growth_exponents,
    likelihood,
    next_token,
    token_chain,
    token_frequencies,
)
from attnchain.operators import DenseTransition
from attnchain.testing import birth_death


def random_chain(n=6, seed=0, size=1.0):
    generator = torch.Generator().manual_seed(seed)
    return (size * torch.randn(n, n, generator=generator).double()).softmax(-1)


def prompts_of(samples, length, n, seed=0, offered=None):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(n, (samples, length), generator=generator)
    return tokens if offered is None else torch.tensor(offered)[tokens]


def followed(matrix, prompts, seed=1):
    """Next tokens of many prompts, drawn from the model."""
    n = len(matrix)
    weights = token_frequencies(prompts, n) * matrix[prompts[:, -1]]
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(weights, 1, generator=generator)[:, 0]


def furthest_row(matrix, found):
    return float((matrix - found).abs().sum(-1).max() / 2)


# The chain of a prompt ------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_one_attention_layer_is_the_conditioned_chain(seed):
    """Torch's attention over positions, read through C with C E^T = I."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(7, 9, generator=generator, dtype=torch.float64)
    weights = torch.randn(9, 9, generator=generator, dtype=torch.float64) / 3
    prompt = torch.randint(7, (15,), generator=generator)
    tokens = embeddings[prompt]
    query = (tokens[-1:] @ weights.mT)[None]
    attended = functional.scaled_dot_product_attention(
        query, tokens[None], tokens[None], scale=1.0
    )
    read = attended[0, 0] @ torch.linalg.pinv(embeddings)
    found = next_token(token_chain(embeddings, weights), prompt)
    torch.testing.assert_close(found, read, rtol=0, atol=2e-14)

    one_hot = functional.one_hot(prompt, 7).double()
    attended = functional.scaled_dot_product_attention(
        query, tokens[None], one_hot[None], scale=1.0
    )
    assert float((found - attended[0, 0]).abs().max()) <= 1e-15


def test_the_base_chain_is_the_softmax_over_the_vocabulary():
    generator = torch.Generator().manual_seed(0)
    e = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    w = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    scores = [[torch.exp(e[j] @ w @ e[i]) for j in range(5)] for i in range(5)]
    expected = torch.tensor(scores, dtype=torch.float64)
    expected = expected / expected.sum(-1, keepdim=True)
    torch.testing.assert_close(token_chain(e, w).to_dense(), expected)


def test_tokens_outside_the_prompt_are_never_next():
    found = next_token(random_chain(), torch.tensor([2, 4, 4, 2, 0]))
    assert (found > 0).tolist() == [True, False, True, False, True, False]
    assert abs(float(found.sum()) - 1) < 1e-15


def test_a_uniform_prompt_changes_nothing():
    matrix = random_chain()
    uniform = torch.full((6,), 1 / 6, dtype=torch.float64)
    found = context_conditioned(matrix, uniform).to_dense()
    torch.testing.assert_close(found, matrix, rtol=0, atol=1e-15)


def test_a_reversible_chain_stays_reversible_under_a_fixed_prompt():
    known = birth_death(6)
    shares = torch.tensor([3, 1, 2, 1, 4, 5]).double() / 16
    chain = context_conditioned(known.matrix, shares)
    weights = known.stationary * shares * (known.matrix @ shares)
    weights = weights / weights.sum()
    assert float(detailed_balance_error(chain, weights)) < 1e-15
    torch.testing.assert_close(stationary(chain).distribution, weights)
    # An irreversible one does not become reversible.
    chain = context_conditioned(random_chain(), shares)
    pi = stationary(chain).distribution
    assert float(detailed_balance_error(chain, pi)) > 0.01


@pytest.mark.parametrize("prompt", [[0, 6], [-1, 0], []])
def test_prompts_of_other_tokens_are_refused(prompt):
    with pytest.raises(ArgumentError, match="prompt must"):
        next_token(random_chain(), torch.tensor(prompt, dtype=torch.int64))


def test_what_is_no_prompt_is_refused():
    with pytest.raises(ArgumentError, match="token numbers"):
        next_token(random_chain(), torch.tensor([0.5]))
    with pytest.raises(ArgumentError, match="token numbers"):
        token_frequencies([0, 1], 2)
    with pytest.raises(ShapeError, match="length"):
        next_token(random_chain(), torch.tensor([[0], [1]]))
    with pytest.raises(ShapeError, match="one chain"):
        next_token(random_chain().expand(2, 6, 6), torch.tensor([0]))
    with pytest.raises(ShapeError, match="weights"):
        token_chain(torch.ones(4, 3), torch.ones(4, 4))


# Generation -----------------------------------------------------------------------


def test_generated_tokens_follow_the_distribution_of_the_next_token():
    matrix, prompt = random_chain(), torch.tensor([0, 1, 1, 3, 5, 3])
    generator = torch.Generator().manual_seed(0)
    runs = generate(matrix, prompt.expand(20_000, -1), 2, generator=generator)
    first = next_token(matrix, prompt)
    drawn = runs[:, 0].bincount(minlength=6).double()
    seen = first > 0
    test = stats.chisquare(drawn[seen], 20_000 * first[seen])
    assert test.pvalue > 1e-3
    assert int(drawn[~seen].sum()) == 0
    # The second token knows the first: frequencies have changed.
    after = runs[runs[:, 0] == 1, 1].bincount(minlength=6).double()
    second = next_token(matrix, torch.cat([prompt, torch.tensor([1])]))
    test = stats.chisquare(after[seen], after.sum() * second[seen])
    assert test.pvalue > 1e-3


def test_a_seed_repeats_and_a_run_alone_has_one_axis():
    matrix, prompt = random_chain(), torch.arange(6)
    one, same = (
        generate(matrix, prompt, 30, generator=torch.Generator().manual_seed(3))
        for _ in range(2)
    )
    assert one.shape == (30,)
    assert torch.equal(one, same)


def test_a_dead_end_is_named():
    identity = torch.eye(3, dtype=torch.float64).roll(1, 1)
    with pytest.raises(NotStochasticError, match="token 2"):
        generate(identity, torch.tensor([1, 2]), 3)
    with pytest.raises(ArgumentError, match="steps"):
        generate(identity, torch.tensor([1, 2]), 0)


# Likelihood -----------------------------------------------------------------------


def test_the_chain_comes_back_from_many_prompts():
    matrix = random_chain()
    prompts = prompts_of(20_000, 6, 6)
    fit = fit_prompts(prompts, followed(matrix, prompts), 6)
    scores = (fit.matrix - matrix) / fit.standard_errors
    assert 0.7 < float(scores.std()) < 1.4
    assert float(scores.abs().max()) < 4
    assert furthest_row(matrix, fit.transition.to_dense()) < 0.04
    assert float(fit.steps_left.max()) <= likelihood.TOLERANCE
    assert fit.samples.tolist() == prompts[:, -1].bincount().tolist()


def test_the_error_falls_as_one_over_the_root_of_the_samples():
    matrix, sizes, errors = random_chain(4), [500, 4_000, 32_000], []
    for size in sizes:
        found = []
        for seed in range(6):
            prompts = prompts_of(size, 6, 4, seed)
            fit = fit_prompts(prompts, followed(matrix, prompts, seed + 99), 4)
            found.append(furthest_row(matrix, fit.matrix))
        errors.append(np.mean(found))
    slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert -0.62 < slope < -0.4


def test_standard_errors_are_the_spread_of_repeated_fits():
    matrix, found = random_chain(4), []
    for seed in range(200):
        prompts = prompts_of(800, 5, 4, seed)
        fit = fit_prompts(prompts, followed(matrix, prompts, 1000 + seed), 4)
        found.append((fit.matrix, fit.standard_errors))
    values, errors = (torch.stack(part) for part in zip(*found, strict=True))
    ratio = values.std(0) / errors.nanmean(0)
    assert 0.8 < float(ratio.min()) < float(ratio.max()) < 1.25


def test_the_estimate_is_the_maximum():
    """No nearby row has a smaller loss: against the formula written out."""
    prompts = prompts_of(600, 5, 4)
    following = followed(random_chain(4), prompts)
    fit = fit_prompts(prompts, following, 4)

    def loss(matrix):
        offered = token_frequencies(prompts, 4) * matrix[prompts[:, -1]]
        chosen = offered[torch.arange(600), following] / offered.sum(-1)
        return float(-chosen.log().mean())

    best = loss(fit.matrix)
    assert abs(best - fit.loss) < 1e-12
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        shift = 0.02 * torch.randn(4, 4, generator=generator, dtype=torch.float64)
        assert loss((fit.matrix.log() + shift).softmax(-1)) > best


def test_bigram_counts_do_not_find_the_chain():
    matrix = random_chain()
    prompts = prompts_of(60_000, 6, 6)
    following = followed(matrix, prompts)
    bigram = torch.zeros(6, 6, dtype=torch.float64)
    ones = torch.ones(len(prompts), dtype=torch.float64)
    bigram.index_put_((prompts[:, -1], following), ones, accumulate=True)
    bigram /= bigram.sum(-1, keepdim=True)
    fit = fit_prompts(prompts, following, 6)
    assert furthest_row(matrix, bigram) > 4 * furthest_row(matrix, fit.matrix)


def test_one_long_text_gives_the_rows_it_visits():
    matrix = random_chain(5)
    generator = torch.Generator().manual_seed(1)
    prompt = torch.arange(5).repeat(4)
    text = generate(matrix, prompt, 20_000, generator=generator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AssumptionWarning)
        fit = fit_trajectory(torch.cat([prompt, text]), 5, prompt=len(prompt))
    assert int(fit.samples.sum()) == 20_000
    row = int(fit.samples.argmax())
    score = (fit.matrix[row] - matrix[row]) / fit.standard_errors[row]
    assert float(score.abs().max()) < 4


def test_prompts_of_two_vocabularies_leave_ratios_between_them_open():
    """The Hessian's null space has the predicted dimension; rows are nan."""
    matrix = random_chain()
    first = prompts_of(2_000, 6, 3, 0, [0, 1, 2])
    second = prompts_of(2_000, 6, 3, 1, [3, 4, 5])
    prompts = torch.cat([first, second])
    following = followed(matrix, prompts)
    with pytest.warns(AssumptionWarning, match=r"6 of 6 rows.*3, 4, 5 are never in a"):
        fit = fit_prompts(prompts, following, 6)
    assert fit.matrix.isnan().all()
    with pytest.raises(NotStochasticError, match="more text"):
        _ = fit.transition
    assert [_rank(prompts, following, row) for row in range(6)] == [2] * 6
    mixed = prompts_of(4_000, 6, 6)
    following = followed(matrix, mixed)
    assert [_rank(mixed, following, row) for row in range(6)] == [5] * 6


def _rank(prompts, following, row):
    own = prompts[:, -1] == row
    weights = token_frequencies(prompts[own], 6).numpy()
    chosen = following[own].numpy()
    hessian = likelihood._derivatives(np.zeros(6), weights, chosen)[2]
    return np.linalg.matrix_rank(hessian, tol=1e-9)


@pytest.mark.parametrize(
    ("prompts", "following", "reason"),
    [
        ([[0, 1, 1]] * 2, [0, 1], "it is never a last token"),
        ([[0, 2, 2], [0, 2, 2]], [0, 2], "tokens 1 are never in a prompt"),
        # 0 and 1 are offered, 2 and 3 are offered, never both; 4 never comes.
        (
            [[0, 1, 4], [0, 1, 4], [2, 3, 4], [2, 3, 4]],
            [0, 1, 2, 3],
            "tokens 0, 1 and 2, 3 are never offered together",
        ),
        # 0 comes wherever 0 and 1 are both offered.
        ([[0, 1, 2], [1, 2, 2]], [0, 1], "of tokens 0, 1 some always came"),
    ],
)
def test_rows_without_a_single_maximum_say_why(prompts, following, reason):
    n = 1 + max(map(max, prompts))
    with pytest.warns(AssumptionWarning):
        fit = fit_prompts(torch.tensor(prompts), torch.tensor(following), n)
    assert any(told.startswith(reason) for told in fit.undetermined.values())
    assert fit.matrix[list(fit.undetermined)].isnan().all()


def test_a_token_that_is_offered_and_never_comes_is_zero():
    prompts = torch.tensor([[0, 1, 2], [0, 1, 2], [1, 0, 2]])
    with pytest.warns(AssumptionWarning, match="2 of 3"):
        fit = fit_prompts(prompts, torch.tensor([0, 1, 0]), 3)
    expected = torch.tensor([2 / 3, 1 / 3, 0], dtype=torch.float64)
    torch.testing.assert_close(fit.matrix[2], expected)
    assert fit.standard_errors[2].isnan().tolist() == [False, False, True]


def test_texts_of_different_lengths_are_the_same_samples():
    prompts = prompts_of(300, 4, 3)
    following = followed(random_chain(3), prompts)
    one = fit_prompts(prompts, following, 3)
    other = fit_prompts([p.repeat(1 + i % 2) for i, p in enumerate(prompts)],
                        following, 3)  # fmt: skip
    torch.testing.assert_close(one.matrix, other.matrix)


def test_samples_the_model_cannot_give_are_refused():
    prompts = torch.tensor([[0, 1], [1, 1]])
    with pytest.raises(ArgumentError, match="sample 1 is followed by token 0"):
        fit_prompts(prompts, torch.tensor([0, 0]), 2)
    with pytest.raises(ArgumentError, match="sample 0 is followed by token 2"):
        fit_trajectory(torch.tensor([0, 1, 2]), 3, prompt=2)
    with pytest.raises(ArgumentError, match="prompt"):
        fit_trajectory(torch.tensor([0, 1, 0]), 3, prompt=3)
    with pytest.raises(ShapeError, match="one token for each prompt"):
        fit_prompts(prompts, torch.tensor([0]), 2)
    with pytest.raises(ShapeError, match="samples, length"):
        fit_prompts(prompts[0], torch.tensor([0]), 2)
    with pytest.raises(ShapeError, match="tokens must be"):
        fit_trajectory(prompts, 2, prompt=1)
    with pytest.raises(ShapeError, match="one or more texts"):
        fit_prompts([], torch.tensor([0]), 2)


def test_a_search_that_does_not_end_says_so(monkeypatch):
    prompts = prompts_of(600, 5, 4)
    monkeypatch.setattr(likelihood, "_ITERATIONS", 1)
    with pytest.raises(ConvergenceError, match="standard errors long"):
        fit_prompts(prompts, followed(random_chain(4), prompts), 4)


# Collapse -------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.6, 0.7, 0.8])
def test_the_weaker_of_two_tokens_grows_as_a_power(p):
    """Means over 300 runs; the bias of finite lengths is upward."""
    matrix = torch.tensor([[p, 1 - p]] * 2, dtype=torch.float64)
    exponent = (1 - p) / p
    found = growth_exponents(matrix, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(found[1], torch.tensor(exponent).double())
    generator = torch.Generator().manual_seed(0)
    prompt = torch.tensor([0, 1]).repeat(300, 2)
    runs = generate(matrix, prompt, 12_000, generator=generator)
    lengths = np.array([750, 1_500, 3_000, 6_000, 12_000])
    weaker = [float((runs[:, :t] == 1).double().sum(-1).mean()) for t in lengths]
    slope = np.polyfit(np.log(lengths), np.log(weaker), 1)[0]
    assert exponent - 0.03 < slope < exponent + 0.08


def test_a_winner_is_its_own_likeliest_next_token():
    matrix = torch.tensor(
        [[0.5, 0.3, 0.2], [0.4, 0.5, 0.1], [0.6, 0.3, 0.1]], dtype=torch.float64
    )
    winners = [growth_exponents(matrix, shares) for shares in torch.eye(3)]
    for w, exponents in enumerate(winners):
        torch.testing.assert_close(exponents, matrix[w] / matrix[w, w])
    assert [bool((e <= 1 + 1e-12).all()) for e in winners] == [True, True, False]


def test_frequencies_of_equal_rows_follow_the_closed_form():
    """Counts are powers of each other: n_j = c_j n_0 ** (r_j / r_0)."""
    rows = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    grown = torch.tensor([[4.0, 4, 4], [8, 4 * 2**0.6, 4 * 2**0.4],
                          [4096, 4 * 1024**0.6, 4 * 1024**0.4]]).double()  # fmt: skip
    lengths = grown.sum(-1)
    found = expected_frequencies(rows.expand(3, 3), grown[0], lengths)
    expected = grown / lengths[:, None]
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=0)


def test_long_text_follows_the_expected_frequencies():
    matrix = random_chain(5, 2)
    prompt = torch.arange(5).repeat(400)
    generator = torch.Generator().manual_seed(0)
    runs = generate(matrix, prompt.expand(40, -1), 8_000, generator=generator)
    counts = prompt.bincount().double()
    whole = torch.stack([run.bincount(minlength=5) + counts for run in runs])
    found = whole / whole.sum(-1, keepdim=True)
    expected = expected_frequencies(matrix, counts, torch.tensor([10_000.0]))[0]
    assert float((counts / counts.sum() - expected).abs().max()) > 0.1
    assert float((found.mean(0) - expected).abs().max()) < 0.005


def test_absent_tokens_stay_absent():
    counts = torch.tensor([3.0, 0, 2, 0, 1, 0])
    found = expected_frequencies(random_chain(), counts, torch.tensor([10.0, 1e4]))
    assert (found[:, counts == 0] == 0).all()
    torch.testing.assert_close(found.sum(-1), torch.ones(2).double())


def test_shares_that_are_steady_have_exponents_of_one():
    matrix = random_chain(4, 1)
    steady = expected_frequencies(
        matrix, torch.ones(4), torch.tensor([1e80], dtype=torch.float64)
    )[0]
    steady = torch.where(steady > 1e-6, steady, 0)
    exponents = growth_exponents(matrix, steady / steady.sum())
    kept = steady > 0
    ones = torch.ones(int(kept.sum()), dtype=torch.float64)
    torch.testing.assert_close(exponents[kept], ones, atol=1e-5, rtol=0)
    assert (exponents[~kept] < 1).all()


def test_wrong_arguments_of_collapse_are_named():
    matrix = random_chain(3)
    with pytest.raises(ShapeError, match="frequencies"):
        growth_exponents(matrix, torch.full((2, 3), 1 / 3))
    with pytest.raises(NotStochasticError, match="frequencies"):
        growth_exponents(matrix, torch.tensor([0.5, 0.5, 0.5]))
    halves = torch.tensor([[1.0, 0], [0, 1]])
    with pytest.raises(ReducibleChainError):
        growth_exponents(halves, torch.tensor([0.5, 0.5]))
    with pytest.raises(ShapeError, match="counts"):
        expected_frequencies(matrix, torch.ones(2), torch.tensor([9.0]))
    with pytest.raises(ArgumentError, match="counts"):
        expected_frequencies(matrix, torch.zeros(3), torch.tensor([9.0]))
    for lengths in ([2.0, 9.0], [9.0, 8.0], [], [3.0, float("inf")]):
        with pytest.raises(ArgumentError, match="lengths must"):
            expected_frequencies(matrix, torch.ones(3), torch.tensor(lengths))
    with pytest.raises(ShapeError, match="one chain"):
        growth_exponents(DenseTransition(matrix.expand(2, 3, 3)), torch.ones(3) / 3)
