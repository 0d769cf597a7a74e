"""The operator and the question that the guide writes are what it says they are."""

import re
from pathlib import Path

import pytest
import torch

from attnchain import as_transition
from attnchain.markov import second_eigenvalue, stationary

GUIDE = Path(__file__).parents[2] / "docs" / "extending.md"


@pytest.fixture(scope="module")
def guide():
    names = {"__name__": "guide"}
    for block in re.findall(
        r"^```python\n(.*?)^```$", GUIDE.read_text("utf-8"), re.M | re.S
    ):
        exec(compile(block, GUIDE.name, "exec"), names)  # noqa: S102
    return names


@pytest.fixture
def parts(generator):
    matrix = torch.rand(6, 6, dtype=torch.float64, generator=generator)
    holding = torch.rand(6, dtype=torch.float64, generator=generator)
    matrix /= matrix.sum(-1, keepdim=True)
    dense = holding.diag() + (1 - holding)[:, None] * matrix
    return as_transition(matrix), holding, dense


def test_the_operator_is_its_matrix(guide, parts):
    base, holding, dense = parts
    held = guide["Held"](base, holding)
    vectors = torch.eye(6, dtype=torch.float64)
    torch.testing.assert_close(held.push(vectors), dense)
    torch.testing.assert_close(held.pull(vectors), dense.mT)
    torch.testing.assert_close(held.to(torch.float32).to_dense(), dense.float())
    assert held.shape == (6, 6)
    batch = guide["Held"](as_transition(base.to_dense().expand(2, 6, 6)), holding)
    torch.testing.assert_close(batch[1].to_dense(), dense)


def test_questions_are_answered_for_it(guide, parts):
    base, holding, dense = parts
    held = guide["Held"](base, holding)
    pi = stationary(held).distribution
    torch.testing.assert_close(pi @ dense, pi, rtol=0, atol=1e-9)
    moduli = torch.linalg.eigvals(dense).abs().sort(descending=True).values
    found = float(second_eigenvalue(held).modulus)
    assert found == pytest.approx(float(moduli[1]), abs=1e-6)


def test_the_question_is_the_diagonal_of_a_power(guide, parts):
    base, _, _ = parts
    expected = torch.linalg.matrix_power(base.to_dense(), 3).diagonal()
    torch.testing.assert_close(guide["return_probability"](base, 3), expected)
