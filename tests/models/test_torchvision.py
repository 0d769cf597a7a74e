"""After attnchain, a torchvision that was built for another torch can be imported."""

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import pytest

DESCRIBES = """
import torch
@torch.library.register_fake("torchvision::nms")
def fake(dets, scores, threshold): return dets
@torch.library.register_fake("torchvision::qnms")
def fake(dets, scores, threshold): return dets
"""
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")


@pytest.fixture
def python(tmp_path):
    """Runs code in a process of its own that finds tmp_path first."""

    def python(code):
        path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout if done.returncode == 0 else done.stderr

    return python


@pytest.fixture
def torchvision(tmp_path):
    """A torchvision that describes its operators, with this library to define them."""

    def torchvision(library):
        folder = tmp_path / "torchvision"
        folder.mkdir()
        (folder / "__init__.py").write_text(DESCRIBES)
        library(folder / f"_C{SUFFIX}")

    return torchvision


def loadable(target):
    """Some library that loads: it stands for operators that are there."""
    shutil.copy(find_spec("_posixsubprocess").origin, target)


def broken(target):
    target.write_bytes(b"built for another torch")


def test_one_whose_library_does_not_load_can_be_imported(torchvision, python):
    torchvision(broken)
    assert "torchvision::nms does not exist" in python("import torchvision")
    assert python("import attnchain, torchvision; print('well')") == "well\n"


def test_a_first_attempt_that_failed_does_no_harm(torchvision, python):
    torchvision(broken)
    code = """
try:
    import torchvision
except RuntimeError:
    import attnchain, torchvision
    print("well")
"""
    assert python(code) == "well\n"


def test_operators_that_someone_else_declared_are_kept(torchvision, python):
    torchvision(broken)
    code = """
import torch
library = torch.library.Library("torchvision", "FRAGMENT")
library.define("nms(Tensor d, Tensor s, float t) -> Tensor")
import attnchain, torchvision
print(torch.ops.torchvision.nms.default._schema)
"""
    expected = "torchvision::nms(Tensor d, Tensor s, float t) -> Tensor\n"
    assert python(code) == expected


NOTHING_DECLARED = """
import attnchain, sys, torch
print(hasattr(torch.ops.torchvision, "nms"), sys.modules.get("torchvision"))
"""


@pytest.mark.skipif(
    not Path(getattr(find_spec("_posixsubprocess"), "origin", None) or "").is_file(),
    reason="needs a library of Python's own in a file",
)
def test_one_whose_library_loads_is_left_alone(torchvision, python):
    torchvision(loadable)
    assert python(NOTHING_DECLARED) == "False None\n"


def test_without_a_library_or_a_torchvision_nothing_is_declared(torchvision, python):
    torchvision(lambda _: None)
    assert python(NOTHING_DECLARED) == "False None\n"
    absent = "import sys; sys.modules['torchvision'] = None" + NOTHING_DECLARED
    assert python(absent) == "False None\n"


@pytest.mark.parametrize(
    ("package", "code"),
    [
        ("transformers", "from transformers import GPT2Model, AutoModelForCausalLM"),
        ("timm", "import timm"),
        ("open_clip", "import open_clip"),
        ("diffusers", "from diffusers import UNet2DConditionModel"),
        ("torchmetrics", "import torchmetrics.functional.classification"),
    ],
)
def test_the_installed_packages_import_after_attnchain(python, package, code):
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    said = python(f"import attnchain\n{code}\nprint('well')")
    assert said.endswith("well\n"), said


def test_the_text_model_of_a_script_is_captured(python):
    pytest.importorskip("transformers")
    code = """
import attnchain, torch
from transformers import GPT2Config, GPT2Model
model = GPT2Model(GPT2Config(n_layer=2, n_head=2, n_embd=8, vocab_size=9)).eval()
with attnchain.capture(model) as attention, torch.no_grad():
    model(torch.arange(5)[None])
print(len(attention), tuple(attention[0].shape))
"""
    assert python(code) == "2 (1, 2, 5, 5)\n"
