"""A model with attention through landmarks
========================================

Fast Nystrom attention lets every token look at, and be looked at through, a few
landmark tokens only. Here the last four layers of DINOv2 run with it: the features stay
near the model's own with fewer landmarks than a tenth of the tokens.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch.nn.functional import cosine_similarity

from attnchain import capture
from attnchain.methods import farthest_points, fast_nystrom_layers
from attnchain.models import load, read_picture

HERE = Path(__file__).parent if "__file__" in globals() else Path()
LAYERS, NUMBERS = range(8, 12), (8, 16, 32, 64)

picture = read_picture(HERE / "chelsea.png")
model = load()
pixels = model.pixels(picture, size=448)
grid = model.grid(pixels)


changed = {}
with torch.no_grad():
    exact = model.model(pixels).last_hidden_state[0]
    for number in NUMBERS:
        with fast_nystrom_layers(model.model, number, layers=LAYERS):
            changed[number] = model.model(pixels).last_hidden_state[0]

# %%
# Cosine of every patch's features to the model's own.
figure, axes = plt.subplots(1, 4, figsize=(11, 2.6), layout="constrained")
for ax, (number, found) in zip(axes, changed.items(), strict=True):
    cosine = cosine_similarity(found, exact, dim=-1)
    image = ax.imshow(grid.to_map(cosine[1:]), vmin=0.5, vmax=1)
    ax.set_title(f"{number} landmarks: {cosine.mean():.3f}")
    ax.set(xticks=[], yticks=[])
figure.colorbar(image, ax=axes, label="cosine")

# %%
# The landmarks: farthest points of the queries at the first of these layers, the class
# token among them.
with capture(model.model, layers=[LAYERS[0]]) as captured, torch.no_grad():
    model.model(pixels)
queries = captured.records[0].transition().q[0].transpose(0, 1).flatten(1)
chosen = farthest_points(queries, 32, guaranteed=(0,))
rows, columns = (chosen[1:] - 1) // grid.columns, (chosen[1:] - 1) % grid.columns
figure, ax = plt.subplots(figsize=(4.5, 3.2), layout="constrained")
ax.imshow(picture, extent=(-0.5, grid.columns - 0.5, grid.rows - 0.5, -0.5))
ax.plot(columns, rows, "o", color="yellow", markeredgecolor="black")
ax.set(title="31 landmarks beside the class token", xticks=[], yticks=[])
plt.show()
