"""A missing or broken optional package becomes one error that names the extra."""

import math

import pytest

from attnchain.errors import MissingExtraError
from attnchain.optional import require


def test_an_installed_module_is_returned():
    assert require("math", extra="all", feature="counting") is math


def test_a_missing_package_names_its_extra():
    match = r'drawing needs no_such_package.*pip install "attnchain\[plot\]"'
    with pytest.raises(MissingExtraError, match=match):
        require("no_such_package.part", extra="plot", feature="drawing")


@pytest.mark.parametrize("kind", ["ImportError", "RuntimeError", "OSError"])
def test_a_broken_package_shows_its_reason(tmp_path, monkeypatch, kind):
    code = f"raise {kind}('built for another torch\\nmore')"
    (tmp_path / "broken_package.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtraError, match="does not import") as caught:
        require("broken_package", extra="plot", feature="drawing")
    assert "built for another torch" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_broken_package_without_a_reason(tmp_path, monkeypatch):
    (tmp_path / "silent_package.py").write_text("raise RuntimeError")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtraError, match="RuntimeError"):
        require("silent_package", extra="plot", feature="drawing")
