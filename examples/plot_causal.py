"""Causal classes
==============

Which variables act on which? Data leave a whole Markov equivalence class of graphs
open, and often many classes. A process with momentum samples them by their posterior;
on four variables it is held against all 185 classes.
"""

import matplotlib.pyplot as plt
import numpy as np

from attnchain.causal import ClassSampler, GaussianBic, class_chain, exact_posterior

# Sprinkler and rain both make the grass wet, wet grass makes the shoes wet.
generator = np.random.default_rng(0)
sprinkler, rain, *noise = generator.standard_normal((4, 60))
grass = 0.7 * sprinkler + 0.7 * rain + noise[0]
shoes = 0.6 * grass + noise[1]
score = GaussianBic(np.stack([sprinkler, rain, grass, shoes], axis=1))
names = ["sprinkler", "rain", "grass", "shoes"]

# %%
# Edges by sampling, from the graph without edges, and by enumeration.
sample = ClassSampler(score, generator=1).run(5000)
edges = sample.after(200).edge_probabilities()
exact = exact_posterior(score)
miss = abs(edges.adjacency - exact.edge_probabilities().adjacency).max()
print(f"largest error of an edge probability: {miss:.3f}")
print(f"best class: {exact.classes[0]}, probability {exact.probabilities[0]:.3f}")

# %%
# The process is one of our chains: gap for each move, with momentum and without.
for process in ("zigzag", "reversible"):
    print(process, round(class_chain(score, process=process).gap_per_move(), 4))

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
left.step(range(150), sample.n_edges[:150], where="post")
left.set(xlabel="event", ylabel="edges", title="insertions, turn, deletions, turn")
image = right.imshow(edges.directed, cmap="Greys", vmin=0, vmax=1)
for (i, j), probability in np.ndenumerate(edges.adjacency):
    if i != j:
        right.text(j, i, f"{probability:.2f}", ha="center", va="center", color="C3")
right.set_xticks(range(4), names)
right.set_yticks(range(4), names)
right.set(title="grey: directed row to column; red: adjacent")
figure.colorbar(image, ax=right)
plt.show()
