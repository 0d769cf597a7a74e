"""A diffusion model's own attention
==================================

A U-Net that draws height maps in one step, read like any network of diffusers: capture
its attention while it looks at its terrain through a little noise, take the slowest
chain, and ask where attention arrives and which sets it rarely leaves.
"""

import matplotlib.pyplot as plt
import torch

import attnchain as ac
from attnchain.plot import plot_labels, plot_map

loaded = ac.load("terrain-unet")
noise = loaded.inputs(difficulty=0.9, seed=0)
with torch.no_grad():
    terrain = loaded.model(**noise)

# %%
# Attention among 32 x 32 patches, at noise 0.05 (the terrain lies in [-1, 1]). Of these
# layers one mixes slowest: its second eigenvalue is the largest.
seen = noise | {"sigma": torch.tensor([0.05])}
seen["noisy"] = terrain + noise["noisy"] / noise["sigma"] * seen["sigma"]
with torch.no_grad(), ac.capture(loaded.model, resolution=(32, 32)) as attention:
    loaded.model(**seen)

chains = {record.site.name: ac.mix(record.transition())[0] for record in attention}
lambda2 = {
    name: float(ac.spectrum(chain, 2).eigenvalues[1].abs())
    for name, chain in chains.items()
}
slowest = max(lambda2, key=lambda2.__getitem__)
chain = chains[slowest]
for name, value in lambda2.items():
    print(f"{value:.3f}  {name}{'  <- the slowest' * (name == slowest)}")

# %%
# Here its sets part high ground from low: what share of the heights' variance do they
# tell? It is this terrain's affair, no law: over seeds 0 to 7 the share is 81, 61, 67,
# 69, 6, 31, 71 and 45 %. TokenRank lies mostly on few patches of the border:
# attention sinks.
grid = attention[0].grid
sets = ac.metastable_sets(chain)
heights = loaded.heights(terrain)
low = torch.nn.functional.adaptive_avg_pool2d(heights, (grid.rows, grid.columns))
centred = low.flatten() - low.mean()
parts = [sets.labels == label for label in range(len(sets.prevalence))]
means = torch.stack([centred[part].mean() for part in parts])
told = means[sets.labels].square().sum() / centred.square().sum()
print(f"{len(parts)} sets tell {float(told):.0%} of the variance of heights")

figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
plot_map(heights[0], ax=axes[0], title="the terrain", label="metres")
rank = grid.to_map(ac.token_rank(chain).distribution) * grid.n_patches
label = "times the mean patch, powers of ten"
plot_map(rank.log10(), ax=axes[1], title="TokenRank", label=label)
names = [f"{part.float().mean():.0%} of the map" for part in parts]
plot_labels(grid.to_map(sets.labels), None, names, ax=axes[2], title="metastable sets")
plt.show()
