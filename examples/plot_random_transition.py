"""Which of the top patches are certain
====================================

A rank is one number for each patch. Attention weights that are drawn around their own
values turn it into a distribution: here the ten highest patches, the interval of each,
and in how many draws it stays among the ten. On a model that was not trained with such
noise this is a sensitivity analysis, not a posterior.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

from attnchain import as_transition, mix, token_rank
from attnchain.markov import second_eigenvalue
from attnchain.methods import RandomTransition, WeibullWeights
from attnchain.models import load, read_picture
from attnchain.plot import plot_picture
from attnchain.vision import DEFAULT_LAYERS, read_attention

HERE = Path(__file__).parent if "__file__" in globals() else Path()

picture = read_picture(HERE / "coffee.png")
attention = read_attention(picture, load(), layers=DEFAULT_LAYERS, size=224)
heads = as_transition(torch.cat([layer.to_dense() for layer in attention.heads]))

# %%
# Every weight of every head varies by about 23 %, independently. Heads are mixed after
# their weights were drawn.
random = RandomTransition(heads, WeibullWeights(5.0))
weights = attention.lambda2.flatten() / attention.lambda2.sum()


found = random.ask(
    lambda drawn: token_rank(mix(drawn, weights)).distribution,
    draws=100,
    generator=torch.Generator().manual_seed(0),
)
top = found.own.topk(14).indices
low, high = found.interval()
share = found.among_top(10)

# %%
# lambda_2 of one head has a distribution, too.
one = RandomTransition(heads[0], WeibullWeights(5.0)).ask(
    lambda head: second_eigenvalue(head).modulus,
    draws=100,
    generator=torch.Generator().manual_seed(0),
)
ends = [float(end) for end in one.interval()]
print(f"lambda_2 of the first head: {float(one.own):.4f}, drawn {ends}")

# %%
# The ten highest are within the line; the four that follow are outside.
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
plot_picture(picture, ax=left)
x, y = zip(*(attention.patch_centre(int(patch)) for patch in top[:10]), strict=True)
dots = left.scatter(x, y, c=share[top[:10]], vmin=0.5, vmax=1, s=80, edgecolors="white")
figure.colorbar(dots, ax=left, label="share of draws among the ten")

n = len(found.own)
errors = torch.stack([found.own - low, high - found.own]).clamp_min(0)
right.errorbar(range(1, 15), found.own[top] * n, yerr=errors[:, top] * n, fmt="o")
right.axvline(10.5, color="grey", lw=1)
right.set(xlabel="rank", ylabel="TokenRank, times the mean patch", xticks=range(1, 15))
plt.show()
