"""What the numbers as given define, enclosed by FLINT's ball arithmetic.

Floats enter exactly, rows are divided exactly, and every result is a ball that surely
holds the right number, some 80 digits wide. Nothing of attnchain is used here.
"""

import math

import flint
from flint import arb, arb_mat, fmpq, fmpq_mat, fmpz_poly

flint.ctx.prec = 400


def given(numbers):
    """Floating-point numbers as they are, `(n, m)`."""
    rows = numbers.detach().double().tolist()
    return arb_mat([[arb(x) for x in row] for row in rows])


def divided(matrix):
    """Rows divided by their sums."""
    rows = matrix.tolist()
    return arb_mat([[x / sum(row, arb(0)) for x in row] for row in rows])


def attention(q, k, scale, mask=None, causal=False):
    """Softmax of queries times keys, from the given numbers."""
    scores = (given(q) * given(k).transpose() * arb(scale)).tolist()
    for i, row in enumerate(scores):
        bias = [0.0] * len(row) if mask is None else mask.expand(len(k), -1)[i].tolist()
        for j, score in enumerate(row):
            hidden = bias[j] in (False, -math.inf) and bias[j] != 0.0
            hidden |= bias[j] is False or (causal and j > i)
            row[j] = None if hidden else score + arb(0 if bias[j] is True else bias[j])
    weights = [_exponentials(row) for row in scores]
    return divided(arb_mat(weights))


def _exponentials(row):
    """exp of scores less a number near the largest, so that nothing overflows."""
    top = max(float(score.mid()) for score in row if score is not None)
    return [arb(0) if x is None else (x - arb(top)).exp() for x in row]


def mixture(matrices, weights):
    """Chains weighted by numbers that are divided by their sum."""
    total = sum((arb(float(w)) for w in weights), arb(0))
    parts = [
        m * (arb(float(w)) / total) for m, w in zip(matrices, weights, strict=True)
    ]
    return sum(parts[1:], parts[0])


def restricted(matrix, keep):
    """Some states, their rows divided again."""
    rows = matrix.tolist()
    return divided(arb_mat([[rows[i][j] for j in keep] for i in keep]))


def damped(matrix, damping, personalization=None):
    """Follow the chain with probability `damping`, else jump."""
    n, stay = matrix.nrows(), arb(damping)
    v = [1] * n if personalization is None else personalization.tolist()
    jump = [arb(x) for x in v]
    total = sum(jump, arb(0))
    rows = matrix.tolist()
    return arb_mat(
        [
            [stay * x + (1 - stay) * v / total for x, v in zip(row, jump, strict=True)]
            for row in rows
        ]
    )


def column_normalized(matrix):
    """From a key to the queries that look at it."""
    return divided(matrix.transpose())


def stationary(matrix):
    """The distribution that a bounce leaves unchanged, where it is unique."""
    n = matrix.nrows()
    rows = matrix.transpose().tolist()
    for i in range(n):
        rows[i][i] -= 1
    rows[-1] = [arb(1)] * n
    right = arb_mat([[arb(int(i == n - 1))] for i in range(n)])
    return [row[0] for row in arb_mat(rows).solve(right).tolist()]


def assert_within(found, enclosure, bound):
    """The L1 distance to whatever the balls hold is surely at most the bound."""
    pairs = zip(found.tolist(), enclosure, strict=True)
    distance = sum((abs(arb(x) - ball) for x, ball in pairs), arb(0))
    assert float(distance.rad()) < 1e-30, "the enclosure is too wide to tell"
    assert distance <= arb(float(bound)), f"{float(distance.mid()):.3e} > {bound:.3e}"


def eigenvalues(matrix):
    """All eigenvalues of a matrix of floats with rows divided, largest modulus first.

    They are the roots of the exact characteristic polynomial, isolated by FLINT, so
    that equal and defective eigenvalues are as exact as others.
    """
    rows = [[fmpq(*x.as_integer_ratio()) for x in row] for row in matrix.tolist()]
    rows = [[x / sum(row, fmpq(0)) for x in row] for row in rows]
    roots = fmpz_poly(fmpq_mat(rows).charpoly().numer()).complex_roots()
    every = [complex(root) for root, multiplicity in roots for _ in range(multiplicity)]
    return sorted(every, key=abs, reverse=True)
