"""Attention inside groups
=======================

Semantic Equitable Clustering orders tokens by the cosine of their key to the mean key
and cuts the order into equal groups, inside which attention then stays. How good a
partition is shows in the attention mass it keeps. Beside it: halving by the chain's
slow mode, and windows.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

from attnchain.markov import spectrum
from attnchain.methods import equitable_groups, slow_groups
from attnchain.models import load, read_picture
from attnchain.operators import Grouped, kept_mass
from attnchain.vision import read_attention

HERE = Path(__file__).parent if "__file__" in globals() else Path()
LAYER, HEAD, SIDE = 11, 2, 16

picture = read_picture(HERE / "astronaut.png")
attention = read_attention(picture, load(), layers=(LAYER,), size=SIDE * 14)
head = attention.heads[0][HEAD]

place = torch.arange(SIDE) // (SIDE // 2)
partitions = {
    "SEC": equitable_groups(head.k, 4),
    "slow mode, halved": slow_groups(head, 4),
    "windows": (2 * place[:, None] + place).flatten(),
}

# %%
# Four groups of 64 patches each, and the share of attention mass they keep; random
# groups keep a quarter.
figure, axes = plt.subplots(1, 4, figsize=(11, 3.2), layout="constrained")
axes[0].imshow(picture)
axes[0].set_title("picture")
for ax, (name, labels) in zip(axes[1:], partitions.items(), strict=True):
    kept = float(kept_mass(head, labels).mean())
    ax.imshow(picture, extent=(0, SIDE, SIDE, 0))
    ax.imshow(labels.view(SIDE, SIDE), alpha=0.6, extent=(0, SIDE, SIDE, 0))
    ax.set_title(f"{name}: keeps {kept:.2f}")
for ax in axes:
    ax.set(xticks=[], yticks=[])

# %%
# The chain that never leaves its group has the eigenvalue 1 once for each group: a walk
# forgets everything but the group it began in.
inside = Grouped(head, partitions["slow mode, halved"])
figure, ax = plt.subplots(figsize=(5, 3.2), layout="constrained")
for chain, name in ((head, "whole head"), (inside, "inside groups")):
    moduli = spectrum(chain, 8).eigenvalues.abs()
    ax.plot(range(1, 9), moduli, marker="o", label=name)
ax.set(xlabel="eigenvalue", ylabel="modulus", ylim=(0.9, 1.01))
ax.legend()
plt.show()
