"""Prefixes of nested tokens
=========================

An encoder writes a picture as tokens in order, trained so that every prefix of them is
a coarser picture. The weights are those of `benchmarks/methods/nested.py`; the pictures
are drawn by the model itself, from no token at all.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

from attnchain import capture, mix
from attnchain.markov import explained_bounce
from attnchain.nested import NestedTokens
from attnchain.operators import Restricted

HERE = Path(__file__).parent if "__file__" in globals() else Path()
WEIGHTS = HERE.absolute().parent / "benchmarks" / "methods" / "nested.safetensors"
SHOWN = (1, 2, 4, 8)

model = NestedTokens.load(WEIGHTS)
pictures = model.decode(torch.zeros(8, 0, model.config.channels), seed=3).clamp(-1, 1)
with torch.no_grad():
    tokens = model.encode(pictures)
    means = {k: model.predict_mean(tokens[:, :k]) for k in SHOWN}
drawn = {k: model.decode(tokens[:, :k], seed=1) for k in SHOWN}

# %%
# The mean given a prefix is blurred, and nears the picture with every token. A drawn
# picture is one of many that have these tokens.
rows = [("picture", pictures)]
rows += [(f"mean, {k}", means[k]) for k in SHOWN]
rows += [(f"drawn, {k}", drawn[k]) for k in SHOWN]
figure, axes = plt.subplots(len(rows), 1, figsize=(6, 7), layout="constrained")
for ax, (title, row) in zip(axes, rows, strict=True):
    ax.imshow(torch.cat(list(row[:, 0]), 1), cmap="gray", vmin=-1, vmax=1)
    ax.set_ylabel(title, rotation=0, ha="right", va="center")
    ax.set(xticks=[], yticks=[])

# %%
# The same question of a chain: how much of t bounces the slowest modes carry. Here of
# the encoder's own attention between class token and patches, its closed class.
with capture(model) as captured, torch.no_grad():
    model.encode(pictures[:1])
figure, ax = plt.subplots(figsize=(5, 3.2), layout="constrained")
for record, look in zip(captured.records, ("-", "--"), strict=True):
    chain = mix(Restricted(record.transition()[0], torch.arange(1 + 16)))
    for t, color in ((1, "C0"), (4, "C1")):
        curve = explained_bounce(chain, range(1, chain.n_states + 1), t)
        label = f"{record.site.name}, t = {t}"
        ax.plot(range(1, len(curve) + 1), curve, color + look, label=label)
ax.set(xlabel="modes k", ylabel="share of t bounces", xlim=(1, None))
ax.legend(fontsize=8)
plt.show()
