"""Hard retrieval: arg-max graphs, walks, straight-through gradients, the switch."""

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn
from torch.nn import functional

from attnchain.errors import (
    ArgumentError,
    NotStochasticError,
    ShapeError,
    SiteNotFoundError,
)
from attnchain.methods.hard_retrieval import (
    HardAttention,
    HardRetrieval,
    functional_graph,
    retrieve,
    sampled_paths,
)
from attnchain.methods.hard_retrieval.drawn_keys import drawn_retrieval
from attnchain.methods.hard_retrieval.state_rows import one_chain, row_blocks
from attnchain.operators import (
    AttentionTransition,
    DenseTransition,
    Lazy,
    Stacked,
    as_transition,
)

SEEDED = torch.Generator().manual_seed(1)
KEYS = {
    "plain": {},
    "scaled": {"scale": 0.7},
    "causal": {"causal": True},
    "keys hidden": {"mask": torch.arange(40) % 3 > 0},
    "boolean": {"mask": torch.rand(40, 40, generator=SEEDED) > 0.4},
    "additive": {"mask": 50 + torch.randn(40, 40, generator=SEEDED).double()},
    "one row": {"mask": torch.randn(1, 40, generator=SEEDED).double()},
}


def heads(n=40, d=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, n, d, generator=generator, dtype=torch.float64).unbind()


def random_chain(n=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(n, n, generator=generator).double()).softmax(-1)


def chain_of(successor):
    return torch.eye(len(successor), dtype=torch.float64)[torch.tensor(successor)]


# Rows -----------------------------------------------------------------------------


@pytest.mark.parametrize("options", KEYS.values(), ids=KEYS)
@pytest.mark.parametrize("block", [37, 2**22])
def test_rows_are_those_of_the_stored_matrix(options, block, monkeypatch):
    module = "attnchain.methods.hard_retrieval.state_rows._BLOCK"
    monkeypatch.setattr(module, block)
    chain = AttentionTransition(*heads(), **options)
    states = torch.tensor([3, 0, 39, 17])
    rows = torch.cat([block for _, block in row_blocks(one_chain(chain), states)])
    torch.testing.assert_close(rows, chain.to_dense()[states], atol=1e-13, rtol=0)


def test_rows_of_any_other_chain():
    chain = Lazy(AttentionTransition(*heads()), 0.5)
    blocks = row_blocks(one_chain(chain), torch.arange(40))
    rows = torch.cat([rows for _, rows in blocks])
    torch.testing.assert_close(rows, chain.to_dense())


def test_batches_padding_and_masked_rows_are_refused():
    with pytest.raises(ShapeError, match="index it first"):
        functional_graph(random_chain().expand(2, 12, 12))
    live = torch.tensor([True, True, False])
    padded = Stacked([as_transition(random_chain(2))], live[None])
    with pytest.raises(ArgumentError, match="restrict"):
        functional_graph(padded[0])
    own = functional_graph(padded[0].restrict(live))
    assert torch.equal(own.successor, functional_graph(random_chain(2)).successor)
    mask = torch.ones(40, 40, dtype=torch.bool)
    mask[7] = False
    shut = AttentionTransition(*heads(), mask=mask)
    with pytest.raises(NotStochasticError, match="state 7"):
        functional_graph(shut)


# The graph of likeliest steps -------------------------------------------------------


MAPS = st.integers(1, 60).flatmap(
    lambda n: st.lists(st.integers(0, n - 1), min_size=n, max_size=n)
)


@given(MAPS)
@settings(max_examples=60, deadline=None)
def test_cycles_and_basins_are_those_of_networkx(successor):
    graph = functional_graph(chain_of(successor))
    assert graph.successor.tolist() == successor
    other = nx.DiGraph(enumerate(successor))
    cycles = {frozenset(c) for c in nx.simple_cycles(other)}
    assert {frozenset(c.tolist()) for c in graph.cycles} == cycles
    assert set(graph.recurrent.nonzero()[:, 0].tolist()) == set().union(*cycles)
    for cycle, size in zip(graph.cycles, graph.basins, strict=True):
        first = int(cycle[0])
        basin = nx.ancestors(other, first) | set(cycle.tolist())
        assert int(size) == len(basin)
        assert set((graph.root == first).nonzero()[:, 0].tolist()) == basin
        walked = [graph.successor[i] for i in cycle]
        assert [int(i) for i in walked] == [*cycle.tolist()[1:], first]


@pytest.mark.parametrize("seed", range(4))
def test_the_limit_is_the_average_of_all_powers(seed):
    """Brute force over one whole period, after every walk has reached its cycle."""
    generator = torch.Generator().manual_seed(seed)
    successor = torch.randint(60, (60,), generator=generator).tolist()
    matrix = chain_of(successor)
    start = torch.rand(60, generator=generator, dtype=torch.float64)
    start = start / start.sum()
    graph = functional_graph(matrix)
    for given_start in (None, start):
        v = (
            torch.full((60,), 1 / 60, dtype=torch.float64)
            if given_start is None
            else start
        )
        v = v @ torch.linalg.matrix_power(matrix, 60)
        period = int(np.lcm.reduce([len(c) for c in graph.cycles]))
        total = torch.zeros(60, dtype=torch.float64)
        for _ in range(period):
            total, v = total + v, v @ matrix
        found = graph.limit(given_start)
        torch.testing.assert_close(found, total / period, atol=1e-14, rtol=0)


def test_the_limit_depends_on_the_start_where_there_are_two_cycles():
    graph = functional_graph(chain_of([1, 0, 2, 2, 2]))
    assert [c.tolist() for c in graph.cycles] == [[0, 1], [2]]
    assert graph.basins.tolist() == [2, 3]
    torch.testing.assert_close(
        graph.limit(), torch.tensor([0.2, 0.2, 0.6, 0, 0]).double()
    )
    first = graph.limit(torch.tensor([1.0, 0, 0, 0, 0]))
    assert first.tolist() == [0.5, 0.5, 0, 0, 0]


def test_of_equal_steps_the_first_is_taken():
    assert functional_graph(torch.full((4, 4), 0.25)).successor.tolist() == [0] * 4


def test_a_wrong_start_is_refused():
    graph = functional_graph(random_chain(3))
    with pytest.raises(ShapeError, match="start"):
        graph.limit(torch.full((4,), 0.25))
    with pytest.raises(ShapeError, match="start must be"):
        graph.limit(torch.full((2, 3), 1 / 3))
    with pytest.raises(NotStochasticError, match="start"):
        graph.limit(torch.ones(3))


# Walks ----------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"causal": True}], ids=["plain", "causal"])
def test_walks_are_spread_as_the_exact_bounces(options):
    chain = AttentionTransition(*heads(20), **options)
    start = torch.zeros(20)
    start[[5, 19]] = 0.5
    generator = torch.Generator().manual_seed(0)
    walks = sampled_paths(chain, 40_000, 3, start=start, generator=generator)
    assert walks.states.shape == (40_000, 4)
    exact = start.double()
    for bounce in range(4):
        counts = walks.states[:, bounce].bincount(minlength=20)
        seen = exact > 0
        assert int(counts[~seen].sum()) == 0
        expected = 40_000 * exact[seen]
        assert stats.chisquare(counts[seen], expected).pvalue > 1e-3
        exact = chain.push(exact)


def test_errors_fall_as_one_over_the_root_of_the_paths():
    chain, values = as_transition(random_chain()), torch.arange(12.0).double()
    uniform = torch.full((12,), 1 / 12).double()
    exact = float(chain.push(chain.push(uniform)) @ values)
    sizes, errors, told = [100, 1_600, 25_600], [], []
    for paths in sizes:
        found = []
        for seed in range(60):
            generator = torch.Generator().manual_seed(seed)
            walks = sampled_paths(chain, paths, 2, generator=generator)
            mean, error = walks.expectation(values)
            found.append(float(mean[-1]) - exact)
        errors.append(np.sqrt(np.mean(np.square(found))))
        told.append(float(error[-1]))
    slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert -0.6 < slope < -0.4
    np.testing.assert_allclose(errors, told, rtol=0.35)


def test_the_standard_error_of_a_share_is_that_of_repeated_walks():
    chain, found = random_chain(), []
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        walks = sampled_paths(chain, 500, 2, generator=generator)
        share, error = walks.distribution(2)
        found.append(share)
    ratio = torch.stack(found).std(0) / error
    assert 0.7 < float(ratio.min()) < float(ratio.max()) < 1.4


@pytest.mark.parametrize("seed", range(3))
def test_steps_without_probability_are_never_drawn(seed, monkeypatch):
    """Also at the very ends of the interval, in the last of many stacked rows."""
    chain = torch.zeros(300, 300, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    for row in chain:
        places = torch.randperm(300, generator=generator)[:3]
        row[places] = torch.rand(3, generator=generator).double() + 0.1
    chain = chain / chain.sum(-1, keepdim=True)
    for level in (0.0, 1 - 2**-53):

        def same(*size, level=level, **_):
            return torch.full(size, level, dtype=torch.float64)

        monkeypatch.setattr(torch, "rand", same)
        walks = sampled_paths(chain, 300, 2, start=torch.full((300,), 1 / 300))
        steps = chain[walks.states[:, :-1], walks.states[:, 1:]]
        assert bool((steps > 0).all())


def test_a_seed_repeats_and_wrong_arguments_are_named():
    chain = random_chain()
    one, same = (
        sampled_paths(chain, 9, 5, generator=torch.Generator().manual_seed(1)).states
        for _ in range(2)
    )
    assert torch.equal(one, same)
    for paths, bounces, name in ((0, 1, "paths"), (1, 0, "bounces"), (2.5, 1, "paths")):
        with pytest.raises(ArgumentError, match=name):
            sampled_paths(chain, paths, bounces)
    with pytest.raises(ShapeError, match="start"):
        sampled_paths(chain, 2, 2, start=torch.full((2, 12), 1 / 12))
    walks = sampled_paths(chain, 2, 2)
    with pytest.raises(ArgumentError, match="bounce"):
        walks.distribution(3)
    with pytest.raises(ShapeError, match="observable"):
        walks.expectation(torch.ones(3))
    with pytest.raises(ShapeError, match="1 paths"):
        sampled_paths(chain, 1, 2).expectation(torch.ones(12))


# Learning with drawn keys -------------------------------------------------------------


def test_drawn_values_are_rows_of_v_with_the_softmax_as_their_mean():
    q, k = heads(5, 3)
    v = heads(5, 2, seed=1)[0]
    generator = torch.Generator().manual_seed(0)
    wide = (x.expand(20_000, *x.shape) for x in (q, k, v))
    drawn = drawn_retrieval(*wide, generator=generator)
    assert bool((drawn[:, :, None] == v).all(-1).any(-1).all())
    expected = functional.scaled_dot_product_attention(q[None], k[None], v[None])[0]
    torch.testing.assert_close(drawn.mean(0), expected, atol=0.03, rtol=0)


def test_gradients_are_those_of_a_linear_loss_in_expectation():
    """Unbiased where the loss is linear: means of many draws, within 5 errors."""
    q, k, v = (x.requires_grad_() for x in (*heads(4, 3), heads(4, 2, seed=1)[0]))
    slope = heads(4, 2, seed=2)[0]
    weights = (q @ k.mT / 3**0.5).softmax(-1)
    exact = torch.autograd.grad((weights @ v * slope).sum(), (q, k, v))
    generator = torch.Generator().manual_seed(0)
    wide = [x.detach().expand(20_000, *x.shape).clone() for x in (q, k, v)]
    for x in wide:
        x.requires_grad_()
    loss = (drawn_retrieval(*wide, generator=generator) * slope).sum()
    for found, truth in zip(torch.autograd.grad(loss, wide), exact, strict=True):
        error = found.std(0) / 20_000**0.5
        assert bool(((found.mean(0) - truth).abs() <= 5 * error + 1e-12).all())


@pytest.mark.parametrize(("p", "expected"), [(0.5, -6.0), (0.7, -2.4), (0.95, 2.1)])
def test_gradients_of_another_loss_are_biased_even_in_their_sign(p, expected):
    """V = (1, -2), loss (o - .5)^2: the true difference of the entries is -6."""
    scores = torch.tensor([p, 1 - p], dtype=torch.float64).log()
    q = torch.ones(40_000, 1, 1, dtype=torch.float64)
    k = scores[:, None].expand(40_000, 2, 1).clone().requires_grad_()
    v = torch.tensor([[1.0], [-2.0]], dtype=torch.float64).expand(40_000, 2, 1)
    generator = torch.Generator().manual_seed(0)
    loss = ((drawn_retrieval(q, k, v, generator=generator) - 0.5) ** 2).sum()
    (found,) = torch.autograd.grad(loss, k)
    slopes = found[:, 0, 0] / (p * (1 - p))
    error = float(slopes.std()) / 200
    assert abs(float(slopes.mean()) - expected) < 5 * error
    exact = (1 - 0.5) ** 2 - (-2 - 0.5) ** 2
    assert exact == -6
    if p != 0.5:
        assert abs(float(slopes.mean()) - exact) > 20 * error


def test_gradients_of_values_go_to_the_chosen_rows_only():
    q, k = heads(3, 2)
    v = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    generator = torch.Generator().manual_seed(4)
    drawn_retrieval(q, k, v, generator=generator).sum().backward()
    weights = (q @ k.mT / 2**0.5).softmax(-1)
    drawn = torch.multinomial(weights, 1, generator=torch.Generator().manual_seed(4))[
        :, 0
    ]
    assert v.grad[:, 0].tolist() == drawn.bincount(minlength=3).tolist()


def test_the_module_learns_to_look_something_up():
    """Each key has a value, and a query asks for one key: soft attention not needed."""
    torch.manual_seed(0)
    attention, read = HardAttention(16, 2), nn.Linear(16, 4)
    keys, values = torch.randn(6, 16), torch.randn(4, 16)
    parts = [*attention.parameters(), *read.parameters()]
    optimizer = torch.optim.Adam(parts, lr=3e-3)

    def batch(size):
        labels = torch.randint(4, (size, 6))
        asked = torch.randint(6, (size,))
        context = keys + values[labels]
        return keys[asked][:, None], context, labels[torch.arange(size), asked]

    for _ in range(400):
        query, context, truth = batch(64)
        loss = functional.cross_entropy(read(attention(query, context))[:, 0], truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    attention.eval()
    query, context, truth = batch(500)
    right = read(attention(query, context))[:, 0].argmax(-1) == truth
    assert float(right.float().mean()) > 0.9


def test_masks_of_the_module():
    torch.manual_seed(0)
    attention, x = HardAttention(8, 2), torch.randn(2, 5, 8)
    first = torch.arange(5) == 0
    alone = attention(x[:, :1])
    for mode in (True, False):
        taken = attention.train(mode)(x, mask=first)
        torch.testing.assert_close(taken, alone.expand(2, 5, 8))
    with pytest.raises(ArgumentError, match="without any key"):
        attention.train()(x, mask=torch.zeros(5, dtype=torch.bool))
    with pytest.raises(ArgumentError, match="divide"):
        HardAttention(8, 3)
    with pytest.raises(ArgumentError, match="heads"):
        HardAttention(8, 9)


# Retrieval in a model -----------------------------------------------------------------


def sharp(query, key, value, **options):
    """Soft attention with scores so large that the softmax is an arg-max."""
    scale = options.pop("scale", query.shape[-1] ** -0.5)
    mask = options.get("attn_mask")
    if mask is not None and mask.dtype != torch.bool:
        options["attn_mask"] = 1e6 * mask
    return functional.scaled_dot_product_attention(
        query, key, value, scale=1e6 * scale, **options
    )


OPTIONS = {
    "plain": {},
    "scale": {"scale": 0.3},
    "causal": {"is_causal": True},
    "boolean": {"attn_mask": torch.rand(7, 9, generator=SEEDED) > 0.4},
    "additive": {"attn_mask": torch.randn(2, 1, 7, 9, generator=SEEDED).double()},
    "shared keys": {"enable_gqa": True},
    "shared and masked": {
        "enable_gqa": True,
        "attn_mask": torch.rand(2, 4, 7, 9, generator=SEEDED) > 0.4,
    },
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_retrieval_is_attention_at_zero_temperature(options):
    generator = torch.Generator().manual_seed(0)
    shared = 2 if "enable_gqa" in options else 4
    sizes = ((4, 7, 3), (shared, 9, 3), (shared, 9, 5))
    q, k, v = (
        torch.randn(2, *size, generator=generator, dtype=torch.float64)
        for size in sizes
    )
    torch.testing.assert_close(retrieve(q, k, v, **options), sharp(q, k, v, **options))


def test_a_query_without_keys_takes_nothing_and_nan_stays_nan():
    q = k = v = torch.ones(1, 2, 3)
    mask = torch.tensor([[True, True], [False, False]])
    assert retrieve(q, k, v, attn_mask=mask)[0].tolist() == [[1] * 3, [0] * 3]
    q = torch.tensor([[[1.0] * 3, [torch.nan] * 3]])
    assert retrieve(q, k, v).isnan().any(-1)[0].tolist() == [False, True]
    with pytest.raises(ShapeError, match="cannot share"):
        retrieve(torch.ones(3, 1, 2), torch.ones(2, 1, 2), torch.ones(2, 1, 2),
                 enable_gqa=True)  # fmt: skip


class Decoder(nn.Module):
    """Two layers of causal self-attention."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 18) for _ in range(2))

    def forward(self, x):
        for layer in self.layers:
            q, k, v = layer(x)[:, None].chunk(3, -1)
            attend = functional.scaled_dot_product_attention
            x = x + attend(q, k, v, is_causal=True)[:, 0]
        return x


@torch.no_grad()
def test_the_switch_changes_the_chosen_layers_and_leaves_the_model_as_it_was():
    torch.manual_seed(0)
    model, x = Decoder().eval(), torch.randn(2, 5, 6)
    soft = model(x)

    def by_hand(hard):
        y = x
        for number, layer in enumerate(model.layers):
            q, k, v = layer(y)[:, None].chunk(3, -1)
            attend = functional.scaled_dot_product_attention
            attend = retrieve if number in hard else attend
            y = y + attend(q, k, v, is_causal=True)[:, 0]
        return y

    for layers in ([0], [1], [0, 1]):
        with HardRetrieval(model, layers=layers):
            assert torch.equal(model(x), by_hand(layers))
    switch = HardRetrieval(model)
    for _ in range(2):
        with switch:
            assert torch.equal(model(x), by_hand([0, 1]))
    assert torch.equal(model(x), soft)
    with pytest.raises(SiteNotFoundError, match="2"), HardRetrieval(model, layers=[2]):
        model(x)


def test_a_chain_of_likeliest_steps_is_what_retrieval_walks():
    q, k = heads()
    chain = AttentionTransition(q, k)
    positions = torch.arange(40.0).double()[:, None]
    taken = retrieve(q, k, positions)[:, 0].long()
    assert torch.equal(functional_graph(chain).successor, taken)
    assert torch.equal(
        functional_graph(DenseTransition(chain.to_dense())).successor, taken
    )
