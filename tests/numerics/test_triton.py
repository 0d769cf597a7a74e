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
from attnchain.operators import AttentionTransition
from attnchain.operators.kernels import triton_support

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


DTYPES = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp32": torch.float32,
    "fp64": torch.float64,
}


@needs_triton
@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
@pytest.mark.parametrize(
    ("dtype", "push", "columns", "mask", "width", "capability"),
    [
        ("fp32", True, 1, 0, 64, 90),
        ("fp16", False, 64, 1, 64, 80),
        ("bf16", True, 16, 2, 256, 90),
        # The largest of every precision.
        ("fp32", True, 64, 0, 256, 80),
        ("fp64", True, 16, 0, 256, 90),
        ("fp64", False, 16, 2, 128, 80),
    ],
)
def test_products_fit_a_gpu(dtype, push, columns, mask, width, capability):  # noqa: PLR0917
    from attnchain.operators.kernels import triton_kernels

    fixed = {"PUSH": push, "MASK": mask, "CAUSAL": True, "COLUMNS": columns}
    pointers = {"mask": ("fp32", "u8", "fp32")[mask]}
    numbers, sizes = ("tops", "vectors", "result"), ("n", "d", "count")
    shared = compiled_shared(
        triton_kernels._product_kernel,
        DTYPES[dtype],
        width,
        capability,
        (fixed, pointers, numbers, sizes),
    )
    assert columns <= triton_kernels.most_columns(DTYPES[dtype])
    assert shared <= 116 * 1024


@needs_triton
@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
@pytest.mark.parametrize(("dtype", "width"), [("fp32", 256), ("fp64", 256)])
def test_sums_fit_a_gpu(dtype, width):
    from attnchain.operators.kernels import triton_kernels

    fixed = {"MASK": 0, "CAUSAL": False}
    shared = compiled_shared(
        triton_kernels._sums_kernel,
        DTYPES[dtype],
        width,
        80,
        (fixed, {"mask": "fp32"}, ("tops", "totals"), ("n", "d")),
    )
    assert shared <= 116 * 1024


def compiled_shared(kernel, dtype, width, capability, parameters):
    """Bytes of shared memory of a kernel, launched as the library does."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from attnchain.operators.kernels.triton_kernels import launch_options

    fixed, pointers, numbers, sizes = parameters
    name = next(key for key, value in DTYPES.items() if value == dtype)
    options = launch_options(width, dtype)
    stages = {"num_stages": options.pop("num_stages")}
    fixed = {**fixed, "WIDTH": width, **options}
    number = "fp64" if dtype == torch.float64 else "fp32"
    pointers = {"query": name, "key": name, **pointers}
    pointers |= dict.fromkeys(numbers, number)
    signature = {key: "*" + kind for key, kind in pointers.items()}
    signature |= dict.fromkeys((*sizes, "mask_row", "mask_column"), "i32")
    signature |= {"factor": "fp32"} | dict.fromkeys(fixed, "constexpr")
    source = ASTSource(fn=kernel, signature=signature, constexprs=fixed)
    target = GPUTarget("cuda", capability, 32)
    return compile(source, target=target, options=stages).metadata.shared


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_numbers_are_read_as_precisely_as_they_were_given(dtype):
    from attnchain.operators.kernels.triton_kernels import _narrowed

    q, k = (x.to(dtype).float() for x in queries_and_keys(40, 32))
    if dtype == torch.bfloat16:  # beyond the range of float16
        q, k = q * 2.0**20, k / 2.0**20
    narrow = _narrowed(q, k)
    assert {part.dtype for part in narrow} == {dtype}
    assert torch.equal(narrow[0].float(), q)
    assert torch.equal(narrow[1].float(), k)


def test_kernels_are_refused_on_a_cpu(heads, monkeypatch):
    monkeypatch.setattr(triton_support, "find_spec", lambda name: object())
    with pytest.raises(ShapeError, match="needs a CUDA device"):
        AttentionTransition(*heads, backend="triton")


def test_kernels_are_refused_without_triton(heads, monkeypatch):
    monkeypatch.setattr(triton_support, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="pip install triton"):
        AttentionTransition(*heads, backend="triton")


@needs_triton
def test_kernels_that_do_not_work_are_told_and_left_out():
    # Without the interpreter there is no driver for a CPU tensor: the probe fails.
    triton_support._works.cache_clear()
    with pytest.warns(NumericalWarning, match="using tiles"):
        assert not triton_support._works(torch.device("cpu"), torch.float32, 16)


@needs_triton
def test_kernels_that_do_not_compile_are_told_and_left_out(monkeypatch):
    from triton.runtime.errors import OutOfResources

    from attnchain.operators.kernels.triton_kernels import FusedHead

    def prepare(*_args, **_options):
        raise OutOfResources(300_000, 200_000, "shared memory")

    triton_support._works.cache_clear()
    monkeypatch.setattr(FusedHead, "prepare", prepare)
    with pytest.warns(NumericalWarning, match="shared memory"):
        assert not triton_support._works(torch.device("cpu"), torch.float64, 16)
    triton_support._works.cache_clear()


def test_heads_too_wide_for_the_kernels_run_in_tiles(monkeypatch):
    monkeypatch.setattr(triton_support, "find_spec", lambda name: object())
    assert not triton_support.prefers_fused(torch.device("cuda"), torch.float32, 257)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ShapeError, match="up to 256"):
        AttentionTransition(*torch.zeros(2, 4, 257), backend="triton")


@needs_triton
def test_running_out_of_memory_says_nothing_about_the_kernels(monkeypatch):
    from attnchain.operators.kernels.triton_kernels import FusedHead

    def prepare(*_args, **_options):
        raise torch.OutOfMemoryError

    triton_support._works.cache_clear()
    monkeypatch.setattr(FusedHead, "prepare", prepare)
    with pytest.raises(torch.OutOfMemoryError):
        triton_support._works(torch.device("cpu"), torch.float32, 16)


def test_the_cpu_never_takes_the_kernels_by_itself():
    assert not triton_support.prefers_fused(torch.device("cpu"), torch.float32, 16)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_kernels_on_a_gpu(heads, dtype):
    q, k = (x.to("cuda", dtype) for x in heads)
    v = torch.linspace(0, 1, 20).to(q)
    found = AttentionTransition(q, k, backend="triton").push(v)
    expected = AttentionTransition(q, k, backend="tiled").push(v)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
