"""Bounces in both directions
==========================

Multi-bounce attention from one patch. Incoming follows attention, first to where the
patch looks (row select); outgoing goes against it, first to who looks at the patch
(column select). Both forget their start: their limits are the two TokenRanks.
"""

from pathlib import Path

import matplotlib.pyplot as plt

from attnchain import propagate
from attnchain.models import load, read_picture
from attnchain.plot import plot_map
from attnchain.vision import DEFAULT_LAYERS, read_attention

HERE = Path(__file__).parent if "__file__" in globals() else Path()

picture = read_picture(HERE / "coffee.png")
attention = read_attention(picture, load(), layers=DEFAULT_LAYERS, size=392)
grid = attention.grid
start = grid.patch_at(300, 190, **attention.size)
print("the walk starts at pixel", attention.patch_centre(start))

# %%
# Every map is scaled so that a uniform walker has 1 everywhere.
shown = (1, 2, 5, 20)
figure, axes = plt.subplots(2, len(shown), figsize=(15, 5.4), layout="constrained")
for direction, row in zip(("incoming", "outgoing"), axes, strict=True):
    walk = propagate(
        attention.chain, start, max(shown), direction=direction, all_bounces=True
    )
    for bounces, ax in zip(shown, row, strict=True):
        places = grid.to_map(walk[bounces] * grid.n_patches)
        title = f"{direction}, {bounces} bounce{'s' * (bounces > 1)}"
        plot_map(places, ax=ax, title=title, label="times uniform")
plt.show()
