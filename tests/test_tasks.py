"""Names of before 0.2 work, and say where they are now."""

import importlib

import pytest

from attnchain import tasks


@pytest.mark.parametrize(
    ("home", "name"), [(h, n) for h, names in tasks._HOMES.items() for n in names]
)
def test_old_names_lead_to_the_new_ones(home, name):
    with pytest.warns(DeprecationWarning, match=rf"attnchain\.{home}\.{name}"):
        found = getattr(tasks, name)
    assert found is getattr(importlib.import_module(f"attnchain.{home}"), name)


def test_other_names_are_unknown():
    with pytest.raises(AttributeError, match="preview"):
        _ = tasks.preview
