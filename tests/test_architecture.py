"""What DESIGN.md says of the structure is true of the code."""

import ast
import re
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "attnchain"
DESIGN = (ROOT / "DESIGN.md").read_text("utf-8")
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text("utf-8")) for path in FILES}
MIRRORS = ("reference", "testing")
BARE = {"Exception", "RuntimeError", "ValueError", "TypeError", "KeyError", "OSError"}


def short(path):
    return str(path.relative_to(PACKAGE))


def is_typing(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(tree, *, typing=True):
    """Modules of ours that a file imports from, with what it takes."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if is_typing(node) and not typing:
            waiting += node.orelse
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            "attnchain"
        ):
            yield node.module, [alias.name for alias in node.names]
        waiting += ast.iter_child_nodes(node)


def functions():
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield path, node


def code_lines(node):
    """Lines of a function without its docstring."""
    whole = node.end_lineno - node.lineno + 1
    if ast.get_docstring(node) is None:
        return whole
    return whole - (node.body[0].end_lineno - node.body[0].lineno + 1)


def test_functions_fit_a_screen():
    long = [
        f"{short(path)}:{node.name}"
        for path, node in functions()
        if node.end_lineno - node.lineno + 1 > 60
    ]
    assert long == []
    lengths = sorted(code_lines(node) for _, node in functions())
    assert lengths[int(0.9 * len(lengths))] <= 20


def test_modules_are_small():
    lines = {short(p): len(p.read_text("utf-8").splitlines()) for p in FILES}
    assert {name: count for name, count in lines.items() if count > 400} == {}


def test_no_two_files_share_a_name():
    """Twins for reading and tiny models may be called like what they stand for."""
    names = Counter(
        path.name
        for path in FILES
        if path.name != "__init__.py" and not short(path).startswith(MIRRORS)
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_packages_talk_through_their_front_door():
    """From another package only names that its `__init__` exports are imported."""
    taken = []
    for path, tree in TREES.items():
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for module, names in imports(tree):
            parts = module.split(".")
            if len(parts) > 2 and parts[1] != own:
                taken.append(f"{short(path)}: {module} ({', '.join(names)})")
    assert taken == []


@pytest.mark.parametrize("package", sorted({p.parent for p in FILES}), ids=short)
def test_inside_a_package_imports_go_one_way(package):
    """No file imports, directly or not, a file that imports it."""
    own = "attnchain" + "".join(
        f".{part}" for part in package.relative_to(PACKAGE).parts
    )
    graph = {
        f"{own}.{path.stem}": {
            module
            for module, _ in imports(TREES[path], typing=False)
            if module.startswith(f"{own}.")
        }
        for path in package.glob("*.py")
        if path.name != "__init__.py"
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_only_errors_of_our_own_are_raised():
    bare = [
        f"{short(path)}:{node.lineno}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and isinstance(node.exc.func, ast.Name)
        and node.exc.func.id in BARE
    ]
    assert bare == []


def test_dataclasses_of_the_core_are_frozen():
    thawed = [
        f"{short(path)}:{node.name}"
        for path, tree in TREES.items()
        if short(path).startswith(("operators", "markov"))
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for mark in node.decorator_list
        if ast.unparse(mark).startswith("dataclass")
        and "frozen=True" not in ast.unparse(mark)
    ]
    assert thawed == []


def test_tokenrank_is_a_word_of_ranking_and_above():
    below = [
        short(path)
        for path, tree in TREES.items()
        if short(path).startswith(("operators", "markov", "capturing"))
        for node in ast.walk(tree)
        if re.search("token_?rank", getattr(node, "name", "") or "", re.IGNORECASE)
    ]
    assert below == []


def test_the_layout_in_the_design_is_the_one_on_disk():
    layout = DESIGN.split("```")[1]
    named = set(re.findall(r"^  ([a-z_]+)/? ", layout, re.MULTILINE))
    files = {path.stem for path in PACKAGE.glob("*.py")}
    assert named == files | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
