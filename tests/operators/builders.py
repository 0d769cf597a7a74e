"""Random chains with seeds, and transitions next to their dense float64 twins."""

import numpy as np
import torch

from attnchain import reference
from attnchain.operators import AttentionTransition, DenseTransition


def each(function, *stacks):
    """Applies a function of plain matrices to every matrix of equally long stacks."""
    batch = stacks[0].shape[:-2]
    flat = [s.reshape(-1, *s.shape[len(batch) :]) for s in stacks]
    results = np.stack([function(*items) for items in zip(*flat, strict=True)])
    return results.reshape(*batch, *results.shape[1:])


def random_rows(*shape, seed=0, zeros=False):
    """Random transition matrices, float64; with `zeros` some steps are impossible."""
    rng = np.random.default_rng(seed)
    weights = rng.exponential(size=shape) ** 2 + 1e-3
    if zeros:
        weights *= (rng.uniform(size=shape) < 0.4) | np.eye(shape[-1], dtype=bool)
    return weights / weights.sum(-1, keepdims=True)


def queries_and_keys(*shape, seed=0, size=1.5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    pair = size * torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    return pair.to(dtype).unbind()


def attention(q, k, **options):
    """An AttentionTransition and the softmax of the numbers it was given."""
    transition = AttentionTransition(q, k, **options)
    options.pop("backend", None)
    mask = options.pop("mask", None)
    batch = q.shape[:-2]
    wide = [x.double().numpy() for x in (q, k)]
    if mask is None:
        return transition, each(
            lambda a, b: reference.attention(a, b, **options), *wide
        )
    mask = mask.expand(*batch, *q.shape[-2:-1], q.shape[-2]).numpy()
    twin = each(
        lambda a, b, m: reference.attention(a, b, mask=m, **options), *wide, mask
    )
    return transition, twin


def dense(matrix, dtype=torch.float64):
    return DenseTransition(torch.from_numpy(matrix).to(dtype))
