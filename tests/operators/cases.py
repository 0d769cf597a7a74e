"""Pairs of a transition and its dense float64 twin, for every leaf and combinator.

A case is a function without arguments that returns `(transition, twin)`; the twin is
a NumPy array `(*batch, n, n)` computed by `attnchain.reference`. Adding a case here
is all it takes for a new operator to be put under every law in `tests/contracts`.
"""

import numpy as np
import torch
from tests.operators.builders import (
    attention,
    dense,
    each,
    queries_and_keys,
    random_rows,
)

from attnchain import reference
from attnchain.operators import (
    ColumnNormalized,
    Conditioned,
    Damped,
    DenseTransition,
    Grouped,
    Lazy,
    Mixture,
    Permuted,
    Power,
    Product,
    Restricted,
    Reversed,
    Stacked,
    normalize_rows,
)

CASES = {}


def case(build):
    CASES[build.__name__] = build
    return build


# Leaves --------------------------------------------------------------------------


@case
def dense_float64():
    twin = random_rows(5, 5)
    return dense(twin), twin


@case
def dense_float32():
    twin = random_rows(5, 5)
    return dense(twin, torch.float32), twin


@case
def dense_with_zeros():
    twin = random_rows(6, 6, zeros=True)
    return dense(twin), twin


@case
def dense_batched():
    twin = random_rows(2, 3, 4, 4)
    return dense(twin), twin


@case
def dense_half_as_given():
    rounded = torch.from_numpy(random_rows(4, 4)).half()
    twin = reference.normalize_rows(rounded.double().numpy())
    return DenseTransition(rounded, atol=2e-3), twin


@case
def dense_one_state():
    return dense(np.ones((1, 1))), np.ones((1, 1))


@case
def dense_two_states_periodic():
    twin = np.array([[0.0, 1.0], [1.0, 0.0]])
    return dense(twin), twin


@case
def attention_stored():
    return attention(*queries_and_keys(6, 3), backend="dense")


@case
def attention_tiled():
    return attention(*queries_and_keys(6, 3), backend="tiled")


@case
def attention_auto_float32():
    return attention(*queries_and_keys(6, 3, dtype=torch.float32))


@case
def attention_batched_stored():
    return attention(*queries_and_keys(2, 3, 5, 4), scale=0.3, backend="dense")


@case
def attention_batched_tiled():
    return attention(*queries_and_keys(2, 3, 5, 4), scale=0.3, backend="tiled")


@case
def attention_causal_stored():
    return attention(*queries_and_keys(2, 5, 4), causal=True, backend="dense")


@case
def attention_causal_tiled():
    return attention(*queries_and_keys(2, 5, 4), causal=True, backend="tiled")


@case
def attention_boolean_mask():
    seen = torch.from_numpy(random_rows(5, 5, zeros=True) > 0)
    return attention(*queries_and_keys(2, 5, 4), mask=seen, backend="tiled")


@case
def attention_key_mask():
    seen = torch.tensor([True, False, True, True, False])
    return attention(*queries_and_keys(2, 5, 4), mask=seen, backend="tiled")


@case
def attention_mask_for_each_picture():
    seen = torch.tensor([[True, True, False], [True, True, True]])[:, None, None]
    return attention(*queries_and_keys(2, 2, 3, 4), mask=seen, backend="tiled")


@case
def attention_additive_mask():
    bias = 3 * torch.from_numpy(random_rows(2, 5, 5, seed=3))
    bias[0, 1, 2] = -torch.inf
    return attention(*queries_and_keys(2, 5, 4), mask=bias, backend="tiled")


@case
def attention_mask_and_causal():
    seen = torch.tensor([True, True, False, True])
    return attention(*queries_and_keys(4, 2), mask=seen, causal=True)


@case
def attention_half():
    return attention(*queries_and_keys(2, 6, 4, dtype=torch.float16))


@case
def attention_bfloat16_tiled():
    pair = queries_and_keys(2, 6, 4, dtype=torch.bfloat16)
    return attention(*pair, backend="tiled")


@case
def attention_one_state():
    return attention(*queries_and_keys(1, 3))


@case
def attention_two_states():
    return attention(*queries_and_keys(2, 1), backend="tiled")


@case
def attention_several_tiles():
    return attention(*queries_and_keys(1100, 4), backend="tiled")


@case
def attention_several_tiles_causal():
    return attention(*queries_and_keys(1100, 4), causal=True, backend="tiled")


@case
def attention_scores_of_ten_thousand():
    q, k = queries_and_keys(6, 3, size=100.0)
    return attention(q, k, scale=1.0, backend="tiled")


@case
def attention_restricted_to_states():
    transition, twin = attention(*queries_and_keys(2, 7, 3), backend="tiled")
    keep = torch.tensor([0, 2, 3, 6])
    return transition.restrict(keep), each(
        lambda p: reference.restricted(p, keep.numpy()), twin
    )


@case
def attention_masked_and_restricted():
    seen = torch.from_numpy(random_rows(2, 1, 6, 6, zeros=True) > 0)
    transition, twin = attention(*queries_and_keys(2, 2, 6, 3), mask=seen)
    keep = torch.tensor([True, True, False, True, True, False])
    return transition.restrict(keep), each(
        lambda p: reference.restricted(p, keep.numpy()), twin
    )


# Algebra -------------------------------------------------------------------------


@case
def mixture_of_heads():
    heads, twin = dense_batched()
    weights = torch.from_numpy(random_rows(1, 6)).view(2, 3)
    flat = twin.reshape(6, 4, 4)
    return Mixture([heads], [weights]), reference.mixture(flat, weights.flatten())


@case
def mixture_of_layers():
    heads, twins = attention(*queries_and_keys(3, 4, 2), backend="tiled")
    twin = random_rows(4, 4)
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64).split([3, 1])
    mixed = reference.mixture([*twins, twin], [0.1, 0.2, 0.3, 0.4])
    return Mixture([heads, dense(twin)], [weights[0], weights[1][0]]), mixed


@case
def product_of_different_chains():
    first, second = random_rows(4, 4), random_rows(4, 4, seed=1)
    both = Product([dense(first), dense(second)])
    return both, reference.product([first, second])


@case
def product_nested_and_batched():
    a, b = random_rows(2, 4, 4), random_rows(2, 4, 4, seed=1)
    nested = Product([Product([dense(a), dense(b)]), dense(a)])
    return nested, each(lambda x, y: reference.product([x, y, x]), a, b)


@case
def power_three():
    twin = random_rows(2, 4, 4)
    return Power(dense(twin), 3), each(lambda p: reference.power(p, 3), twin)


@case
def damped_uniform():
    transition, twin = attention_batched_tiled()
    return Damped(transition, 0.85), each(lambda p: reference.damped(p, 0.85), twin)


@case
def damped_personalised():
    transition, twin = dense_batched()
    v = torch.tensor([0.5, 0.0, 0.25, 0.25], dtype=torch.float64)
    damped = each(lambda p: reference.damped(p, 0.9, v.numpy()), twin)
    return Damped(transition, 0.9, v), damped


@case
def damped_personalised_for_each_chain():
    transition, twin = dense_batched()
    v = random_rows(2, 3, 4, seed=2)
    damped = each(
        lambda p, row: reference.damped(p, 0.9, row[0]), twin, v[..., None, :]
    )
    return Damped(transition, 0.9, torch.from_numpy(v)), damped


@case
def damped_by_nothing():
    transition, twin = dense_with_zeros()
    return Damped(transition, 1.0), twin


# Derived chains ------------------------------------------------------------------


@case
def restricted_by_mask():
    transition, twin = dense_batched()
    keep = torch.tensor([True, False, True, True])
    return Restricted(transition, keep), each(
        lambda p: reference.restricted(p, keep.numpy()), twin
    )


@case
def restricted_by_indices_in_another_order():
    transition, twin = attention_tiled()
    keep = torch.tensor([5, 0, 3])
    return Restricted(transition, keep), reference.restricted(twin, keep.numpy())


@case
def conditioned_on_what_a_prompt_offers():
    transition, twin = attention_batched_tiled()
    shares = torch.tensor([0.5, 0.0, 0.25, 0.25, 0.0], dtype=torch.float64)
    return Conditioned(transition, shares), each(
        lambda p: reference.conditioned(p, shares), twin
    )


@case
def conditioned_on_a_prompt_for_each_chain():
    transition, twin = dense_batched()
    shares = random_rows(2, 3, 4, seed=1)
    weighed = twin * shares[..., None, :]
    return Conditioned(transition, torch.from_numpy(shares)), each(
        reference.normalize_rows, weighed
    )


@case
def column_normalized():
    transition, twin = attention_batched_tiled()
    return ColumnNormalized(transition), each(reference.column_normalized, twin)


@case
def column_normalized_twice():
    transition, twin = dense_batched()
    for _ in range(2):
        transition = ColumnNormalized(transition)
        twin = each(reference.column_normalized, twin)
    return transition, twin


@case
def reversed_in_time():
    transition, twin = dense_batched()
    pi = each(lambda p: reference.stationary(p)[None], twin)[..., 0, :]
    backwards = each(lambda p: reference.reversed_(p, reference.stationary(p)), twin)
    return Reversed(transition, torch.from_numpy(pi)), backwards


def _inside(matrix, labels):
    """Rows conditioned on steps inside the groups."""
    kept = matrix * (labels[:, None] == labels)
    return kept / kept.sum(-1, keepdims=True)


@case
def grouped_evenly():
    transition, twin = attention(*queries_and_keys(6, 3), backend="tiled")
    labels = torch.tensor([1, 0, 2, 1, 0, 2])
    return Grouped(transition, labels), _inside(twin, labels.numpy())


@case
def grouped_unevenly():
    transition, twin = attention_batched_stored()
    labels = torch.tensor([0, 2, 0, 0, 1])
    return Grouped(transition, labels), each(lambda p: _inside(p, labels.numpy()), twin)


@case
def grouped_for_each_chain():
    transition, twin = attention_half()
    labels = torch.tensor([[0, 0, 1, 1, 1, 0], [1, 1, 1, 0, 1, 1]])
    pairs = zip(twin, labels.numpy(), strict=True)
    return Grouped(transition, labels), np.stack([_inside(*pair) for pair in pairs])


@case
def lazy():
    transition, twin = dense_batched()
    return Lazy(transition, 0.3), each(lambda p: reference.lazy(p, 0.3), twin)


@case
def permuted():
    transition, twin = dense_batched()
    order = torch.tensor([2, 0, 3, 1])
    return Permuted(transition, order), each(
        lambda p: reference.permuted(p, order.numpy()), twin
    )


@case
def stacked_without_padding():
    twins = random_rows(2, 3, 4, 4)
    members = [dense(twin) for twin in twins.reshape(6, 4, 4)]
    return Stacked(members, torch.ones(2, 3, 4, dtype=torch.bool)), twins


# Nested --------------------------------------------------------------------------


@case
def outgoing_token_rank_chain():
    transition, twin = attention(*queries_and_keys(3, 6, 4), backend="tiled")
    mixed = Mixture([transition], [torch.full((3,), 1 / 3, dtype=torch.float64)])
    expected = reference.damped(reference.mixture(twin, [1 / 3] * 3), 0.99)
    return ColumnNormalized(Damped(mixed, 0.99)), reference.column_normalized(expected)


@case
def restricted_mixture_of_masked_heads():
    heads, twins = attention_mask_for_each_picture()
    mixed = Mixture([heads], [torch.full((2, 2), 0.25, dtype=torch.float64)])
    keep = torch.tensor([True, True, False])
    expected = reference.mixture(twins.reshape(4, 3, 3), [0.25] * 4)
    return Restricted(mixed, keep), reference.restricted(expected, keep.numpy())


@case
def product_of_lazy_and_permuted_powers():
    transition, twin = dense_batched()
    order = torch.tensor([1, 0, 3, 2])
    nested = Product([Lazy(transition, 0.1), Power(Permuted(transition, order), 2)])

    def expected(p):
        moved = reference.permuted(p, order.numpy())
        return reference.product([reference.lazy(p, 0.1), moved, moved])

    return nested, each(expected, twin)


@case
def half_precision_all_the_way():
    heads, twins = attention_half()
    weights = torch.tensor([0.25, 0.75])
    expected = reference.damped(reference.mixture(twins, [0.25, 0.75]), 0.9)
    return Damped(Mixture([heads], [weights]), 0.9), expected


@case
def weights_made_stochastic():
    weights = torch.tensor([[1, 3, 0], [2, 2, 4], [0, 0, 5]]).half()
    twin = reference.normalize_rows(weights.double().numpy())
    return DenseTransition(normalize_rows(weights)), twin
