"""The Triton kernels: in the interpreter, compiled for a GPU, and refused without one.

They have not run on a GPU in this repository's own tests unless one is there.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from tests.operators.builders import queries_and_keys

from attnchain.errors import MissingExtraError, NumericalWarning, ShapeError
from attnchain.operators import AttentionTransition, fused

needs_triton = pytest.mark.skipif(
    find_spec("triton") is None, reason="triton is not installed"
)
ROOT = Path(__file__).parents[2]


@pytest.fixture
def heads():
    return [x.float() for x in queries_and_keys(20, 16)]


@needs_triton
def test_kernels_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    ran = subprocess.run(
        [*command, "tests/numerics/triton_cases.py"],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@needs_triton
@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    ("dtype", "push", "columns", "mask", "width"),
    [
        ("fp32", True, 1, 0, 64),
        ("fp16", False, 64, 1, 64),
        ("bf16", True, 16, 2, 256),
        ("fp64", True, 1, 0, 64),
        ("fp64", False, 16, 2, 128),
    ],
)
def test_kernels_compile_for_a_gpu(capability, dtype, push, columns, mask, width):  # noqa: PLR0917
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from attnchain.operators.triton_kernels import _product_kernel, block_size

    given = {"fp64": torch.float64, "fp32": torch.float32}.get(dtype, torch.float16)
    number = "fp64" if dtype == "fp64" else "fp32"
    pointers = {"query": dtype, "key": dtype, "mask": ("fp32", "u8", "fp32")[mask]}
    pointers |= dict.fromkeys(("tops", "vectors", "result"), number)
    signature = {name: "*" + kind for name, kind in pointers.items()}
    signature |= dict.fromkeys(("n", "d", "count", "mask_row", "mask_column"), "i32")
    fixed = {"PUSH": push, "MASK": mask, "CAUSAL": True, "WIDTH": width}
    fixed |= {"COLUMNS": columns, "BLOCK": block_size(width, given)}
    signature |= {"factor": "fp32"} | dict.fromkeys(fixed, "constexpr")
    source = ASTSource(fn=_product_kernel, signature=signature, constexprs=fixed)
    compiled = compile(source, target=GPUTarget("cuda", capability, 32))
    assert compiled.metadata.shared <= 160 * 1024


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_numbers_are_read_as_precisely_as_they_were_given(dtype):
    from attnchain.operators.triton_kernels import _narrowed

    q, k = (x.to(dtype).float() for x in queries_and_keys(40, 32))
    if dtype == torch.bfloat16:  # beyond the range of float16
        q, k = q * 2.0**20, k / 2.0**20
    narrow = _narrowed(q, k)
    assert {part.dtype for part in narrow} == {dtype}
    assert torch.equal(narrow[0].float(), q)
    assert torch.equal(narrow[1].float(), k)


def test_kernels_are_refused_on_a_cpu(heads, monkeypatch):
    monkeypatch.setattr(fused, "find_spec", lambda name: object())
    with pytest.raises(ShapeError, match="needs a CUDA device"):
        AttentionTransition(*heads, backend="triton")


def test_kernels_are_refused_without_triton(heads, monkeypatch):
    monkeypatch.setattr(fused, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="pip install triton"):
        AttentionTransition(*heads, backend="triton")


@needs_triton
def test_kernels_that_do_not_work_are_told_and_left_out():
    # Without the interpreter there is no driver for a CPU tensor: the probe fails.
    fused._works.cache_clear()
    with pytest.warns(NumericalWarning, match="using tiles"):
        assert not fused._works(torch.device("cpu"), torch.float32)


@needs_triton
def test_kernels_that_do_not_compile_are_told_and_left_out(monkeypatch):
    from triton.runtime.errors import OutOfResources

    from attnchain.operators.triton_kernels import FusedHead

    def prepare(*_args, **_options):
        raise OutOfResources(300_000, 200_000, "shared memory")

    fused._works.cache_clear()
    monkeypatch.setattr(FusedHead, "prepare", prepare)
    with pytest.warns(NumericalWarning, match="shared memory"):
        assert not fused._works(torch.device("cpu"), torch.float64)
    fused._works.cache_clear()


def test_the_cpu_never_takes_the_kernels_by_itself():
    assert not fused.prefers_fused(torch.device("cpu"), torch.float32)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_kernels_on_a_gpu(heads, dtype):
    q, k = (x.to("cuda", dtype) for x in heads)
    v = torch.linspace(0, 1, 20).to(q)
    found = AttentionTransition(q, k, backend="triton").push(v)
    expected = AttentionTransition(q, k, backend="tiled").push(v)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
