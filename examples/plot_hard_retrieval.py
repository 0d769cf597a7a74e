"""Where hard attention leads
==========================

If every patch attends only to the patch it attends to most, attention is a map of
patches to patches. Walks end in cycles, and the patches that lead to a cycle are its
basin. Drawing one key instead of taking the likeliest one simulates the chain itself.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

from attnchain import propagate, token_rank
from attnchain.methods.hard_retrieval import functional_graph, sampled_paths
from attnchain.models import load, read_picture
from attnchain.plot import plot_map, plot_picture
from attnchain.vision import DEFAULT_LAYERS, read_attention

HERE = Path(__file__).parent if "__file__" in globals() else Path()

picture = read_picture(HERE / "astronaut.png")
attention = read_attention(picture, load(), layers=DEFAULT_LAYERS, size=392)
chain, grid = attention.chain, attention.grid

# %%
# The graph of likeliest steps. Here every cycle is one patch that attends most to
# itself, so that hard attention ends at once where soft attention goes on.
graph = functional_graph(chain)
sizes = {len(cycle) for cycle in graph.cycles}
print(f"{len(graph.cycles)} cycles, of {sizes} patches; largest basins:",
      graph.basins.sort(descending=True).values[:5].tolist())  # fmt: skip
basins = graph.basins[graph.root.unique(return_inverse=True)[1]]
rank = token_rank(chain).distribution
held = float(rank[graph.recurrent].sum())
print(f"patches on cycles: {int(graph.recurrent.sum())}, with {held:.3f} of TokenRank")

# %%
# 20,000 walks of five bounces, beside the five bounces themselves.
n = grid.n_patches
uniform = torch.full((n,), 1 / n)
generator = torch.Generator().manual_seed(0)
share, _ = sampled_paths(chain, 20_000, 5, generator=generator).distribution()
exact = propagate(chain, uniform, 5).double()
print(f"total variation between them: {float((share - exact).abs().sum()) / 2:.3f}")

figure, axes = plt.subplots(1, 4, figsize=(15, 3.4), layout="constrained")
plot_picture(picture, ax=axes[0])
plot_map(grid.to_map(basins), ax=axes[1], title="size of the basin", label="patches")
label = "times the mean patch"
plot_map(grid.to_map(exact * n), ax=axes[2], title="five bounces", label=label)
plot_map(grid.to_map(share * n), ax=axes[3], title="20,000 walks", label=label)
plt.show()
