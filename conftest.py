"""Leaves out of collection what needs an optional package that is not here."""

from importlib.util import find_spec

collect_ignore = (
    []
    if find_spec("triton")
    else [
        "src/attnchain/operators/triton_kernels.py",
        "tests/numerics/triton_cases.py",
    ]
)
