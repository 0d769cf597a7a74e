"""TokenRank
=========

Where attention arrives in the long run, however the walk began: the stationary vector
of the damped chain, against the plain column sum, which is its first bounce.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

from attnchain import propagate, token_rank
from attnchain.models import load, read_picture
from attnchain.plot import plot_map, plot_picture
from attnchain.vision import DEFAULT_LAYERS, read_attention

HERE = Path(__file__).parent if "__file__" in globals() else Path()

picture = read_picture(HERE / "chelsea.png")
attention = read_attention(picture, load(), layers=DEFAULT_LAYERS, size=392)
chain, grid = attention.chain, attention.grid

# %%
# Both are multiples of a uniform walker: 1 is the mean patch.
n = grid.n_patches
columns = propagate(chain, torch.full((n,), 1 / n), 1)
rank = token_rank(chain)
print(f"rank is known to {float(rank.error_bound):.1e}, {int(rank.products)} products")

figure, (first, second, third) = plt.subplots(
    1, 3, figsize=(12, 3.4), layout="constrained"
)
plot_picture(picture, ax=first)
label = "times the mean patch"
plot_map(grid.to_map(columns * n), ax=second, title="column sum", label=label)
rank.plot(grid, ax=third)
plt.show()
