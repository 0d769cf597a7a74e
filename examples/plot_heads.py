"""Which heads count
=================

A head whose second eigenvalue is close to one forgets slowly: it has metastable sets,
and its weight in the mixture is large.
"""

from pathlib import Path

import matplotlib.pyplot as plt

from attnchain import propagate
from attnchain.models import load, read_picture
from attnchain.plot import plot_heads, plot_map
from attnchain.vision import read_attention

HERE = Path(__file__).parent if "__file__" in globals() else Path()

picture = read_picture(HERE / "chelsea.png")
attention = read_attention(picture, load(), layers=[8, 9, 10, 11], size=392)
lambda2 = attention.lambda2

# %%
# The slowest and the fastest head, five bounces after the cat's nose.
nose = attention.grid.patch_at(205, 165, **attention.size)
order = lambda2.flatten().argsort()
figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
plot_heads(lambda2, attention.layers, ax=axes[0])
for place, ax in zip((order[-1], order[0]), axes[1:], strict=True):
    layer, head = divmod(int(place), lambda2.shape[1])
    places = propagate(attention.heads[layer][head], nose, 5)
    name = f"layer {attention.layers[layer]}, head {head}"
    title = f"{name}: |λ₂| = {float(lambda2[layer, head]):.2f}"
    scaled = places * attention.grid.n_patches
    plot_map(attention.grid.to_map(scaled), ax=ax, title=title, label="times uniform")
plt.show()
