"""Sphinx settings: MyST pages, a gallery that runs, the API from docstrings."""

import re

from attnchain import __version__

project = "attnchain"
author = "The attnchain founders"
copyright = author
default_role = "literal"
release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "gallery/**/*.ipynb", "gallery/**/*.py"]
suppress_warnings = ["config.cache", "myst.xref_missing", "ref.python"]
html_theme = "furo"
html_title = "attnchain"
autodoc_typehints = "signature"
autodoc_member_order = "bysource"

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"plot_",
    "ignore_pattern": r"README",
    "download_all_examples": False,
    "abort_on_example_error": True,
}

napoleon_use_ivar = True
napoleon_attr_annotations = False


def _as_rst(*event):
    """Docstrings are written in Markdown's `code` and $mathematics$; |x| is plain."""
    what, lines = event[1], event[-1]
    text = "\n".join(lines)
    if what == "property":  # else what stands before a colon is taken for its type
        text = text.replace(": ", " - ", 1)
    text = re.sub(r"(?<![`:])`([^`\n]+)`(?!`)", r"``\1``", text)
    text = re.sub(r"\$([^$]+)\$", lambda m: f":math:`{' '.join(m[1].split())}`", text)
    code_or_bars = r"(``[^`]*``|:math:`[^`]*`)|\|(\w+)\|"
    text = re.sub(code_or_bars, lambda m: m[1] or rf"\|{m[2]}\|", text)
    lines[:] = text.split("\n")


def setup(app):
    """Hooks the docstring conversion in, before the Google sections are parsed."""
    app.connect("autodoc-process-docstring", _as_rst, priority=400)
