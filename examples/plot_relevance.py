"""What the class token owes to each patch
=======================================

Attention says where a layer looks, relevance what came through all of them: a product
of one step per layer. Rollout takes the attention as it is, Chefer's rule the part that
raises a score, and the weighted rule lets each token keep the share of its residual
stream (a reconstruction of arXiv 2308.10240, whose weights are not published).
"""

from pathlib import Path

import matplotlib.pyplot as plt

import attnchain as ac
from attnchain.methods import relevance, residual_shares
from attnchain.models import load, read_picture

HERE = Path(__file__).parent if "__file__" in globals() else Path()

model = load()
picture = read_picture(HERE / "astronaut.png")
pixels = model.pixels(picture, size=224)
grid = model.grid(pixels)

# %%
# The score is the class token along its own direction: its cosine to itself would have
# no gradient. What attention adds is taken after the layer scale.
with (
    ac.capture(model.model, gradients=True) as attention,
    residual_shares(
        model.model, stream="encoder.layer.*", branch="*.layer_scale1"
    ) as shares,
):
    state = model.model(pixels).last_hidden_state[0, 0]
score = state @ state.detach() / state.detach().norm()

# %%
# With weights, and rows of sum one, the product is a chain: its rows sum to one. Those
# of Chefer's rule grow.
found = {
    "rollout": relevance(attention, weights=0.5),
    "Chefer": relevance(attention, gradient=score),
    "weighted (reconstruction)": relevance(attention, gradient=score, weights=shares),
    "weighted, a chain": relevance(
        attention, gradient=score, weights=shares, normalize=True
    ),
}
for name, one in found.items():
    print(f"{name}: row of the class token sums to {float(one.row_sums[0, 0]):.2f}")
rank = ac.token_rank(ac.mix(attention.select(), "uniform")).distribution
scores = {name: one.of(0)[0] for name, one in found.items()} | {"TokenRank": rank[0]}

# %%
# The brightest hundredth would hide the others.
figure, axes = plt.subplots(1, 6, figsize=(13, 2.6), layout="constrained")
axes[0].imshow(picture)
axes[0].set_title("picture", fontsize=9)
for ax, (name, values) in zip(axes[1:], scores.items(), strict=True):
    patches = grid.to_map(values[grid.prefix :].float())
    ax.imshow(patches, vmax=float(patches.quantile(0.99)))
    ax.set_title(name, fontsize=9)
for ax in axes:
    ax.axis("off")
plt.show()
