"""What is compared: each function gets queries, keys and scale of some heads.

The published procedures are written from their description, not copied: softmax
matrices in float32, a stored teleport matrix, 200 damped steps without a stopping
test; all eigenvalues for lambda_2.
"""

import os

import torch
from scipy.sparse.linalg import eigs

from attnchain.markov import second_eigenvalue, stationary
from attnchain.operators import AttentionTransition, Damped, to_scipy

DAMPING = 0.99
STEPS = 200


def published_rank(q, k, scale, *, layout="columns"):
    """200 damped steps of column vectors (or of row vectors) with stored matrices."""
    matrix = ((q * scale) @ k.mT).softmax(-1)
    n = matrix.shape[-1]
    teleport = torch.full((n, n), 1 / n)
    matrix = DAMPING * matrix + (1 - DAMPING) * teleport
    v = torch.full((len(q), n), 1 / n)
    for _ in range(STEPS):
        if layout == "columns":
            v = torch.bmm(matrix.mT, v[..., None])[..., 0]
        else:
            v = torch.bmm(v[:, None], matrix)[:, 0]
        v = v / v.sum(-1, keepdim=True)
    return v


def published_rank_rows(q, k, scale):
    return published_rank(q, k, scale, layout="rows")


def dense_rank(q, k, scale):
    """Factorisation in float64, one head after the other."""
    found = []
    for head_q, head_k in zip(q, k, strict=True):
        matrix = (head_q.double() * scale @ head_k.double().mT).softmax(-1)
        n = len(matrix)
        system = torch.eye(n, dtype=torch.float64) - DAMPING * matrix.T
        right = torch.full((n,), (1 - DAMPING) / n, dtype=torch.float64)
        found.append(torch.linalg.solve(system, right))
    return torch.stack(found)


def our_rank(q, k, scale, *, backend="auto"):
    chain = AttentionTransition(q, k, scale=scale, backend=backend)
    return stationary(Damped(chain, DAMPING)).distribution


def our_rank_tiled(q, k, scale):
    """Tiles at any size: what `stored` would keep is refused by a budget of zero."""
    os.environ["ATTNCHAIN_MEMORY_BUDGET"] = "0"
    return our_rank(q, k, scale, backend="tiled")


def dense_second(q, k, scale):
    matrix = (q.double() * scale @ k.double().mT).softmax(-1)
    moduli = torch.stack([torch.linalg.eigvals(head).abs() for head in matrix])
    return moduli.sort(-1, descending=True).values[:, 1]


def arpack_second(q, k, scale):
    found = []
    for head in AttentionTransition(q, k, scale=scale).chains():
        values = eigs(to_scipy(head), k=2, tol=1e-4, return_eigenvectors=False)
        found.append(sorted(abs(values))[0])
    return torch.tensor(found)


def our_second(q, k, scale, *, backend="auto"):
    chain = AttentionTransition(q, k, scale=scale, backend=backend)
    return second_eigenvalue(chain).modulus


def our_second_tiled(q, k, scale):
    os.environ["ATTNCHAIN_MEMORY_BUDGET"] = "0"
    return our_second(q, k, scale, backend="tiled")


def torch_attention(q, k, scale):
    """One forward pass of torch's fused attention of the same shape."""
    value = torch.zeros_like(k)
    return torch.nn.functional.scaled_dot_product_attention(
        q[None], k[None], value[None], scale=scale
    )


RANK, SECOND, PRODUCT = "TokenRank, damping 0.99", "lambda_2", "one product"
METHODS = {
    (RANK, "published: 200 steps, columns"): (published_rank, 8_192),
    (RANK, "published, as row vectors"): (published_rank_rows, 8_192),
    (RANK, "dense factorisation"): (dense_rank, 4_096),
    (RANK, "ours, auto"): (our_rank, None),
    (RANK, "ours, tiles"): (our_rank_tiled, None),
    (SECOND, "all eigenvalues"): (dense_second, 2_048),
    (SECOND, "ARPACK over our operator"): (arpack_second, 8_192),
    (SECOND, "ours, auto"): (our_second, None),
    (SECOND, "ours, tiles"): (our_second_tiled, None),
    (PRODUCT, "torch fused attention"): (torch_attention, None),
}
"""Question and method: the function, and the most tokens it is asked for."""


def prepared_products(q, k, scale):
    """Single pushes with chains whose row sums (or matrix) are known already."""
    n = q.shape[-2]
    one = torch.full((n,), 1 / n)
    many = torch.rand(64, n).expand(len(q), 64, n)
    tiled = AttentionTransition(q, k, scale=scale, backend="tiled")
    tiled.push(one)
    products = {
        "ours, tiles, 1 vector": lambda: tiled.push(one),
        "ours, tiles, 64 vectors": lambda: tiled.push(many),
    }
    if n <= 8_192:
        stored = AttentionTransition(q, k, scale=scale, backend="dense")
        stored.push(one)
        products["ours, stored, 1 vector"] = lambda: stored.push(one)
    return products
