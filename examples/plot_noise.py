"""Which classes flow into which
=============================

Labels that are wrong with unknown probabilities are a Markov chain over the classes:
one step leads from the clean class to the noisy label. VolMinNet finds that chain,
and a classifier of the clean classes, from noisy labels alone.
"""

import matplotlib.pyplot as plt
import torch

from attnchain.markov import second_eigenvalue, stationary
from attnchain.noise import VolumeMinimized

# %%
# Three clusters; four in ten labels of the first class say the second, and so on round.
generator = torch.Generator().manual_seed(0)
classes = torch.randint(3, (3000,), generator=generator)
corners = torch.tensor([[0.0, 2.0], [2.0, -1.0], [-2.0, -1.0]])
points = corners[classes] + 0.5 * torch.randn(3000, 2, generator=generator)
flow = torch.tensor([[0.6, 0.4, 0.0], [0.0, 0.7, 0.3], [0.2, 0.0, 0.8]])
labels = torch.multinomial(flow[classes], 1, generator=generator)[:, 0]

model = VolumeMinimized(3, epochs=8, learning_rate=0.1, transition_rate=0.02)
model.fit(points, labels)
right = (model.predict(points) == classes).float().mean()
print(f"labels right {(labels == classes).float().mean():.3f}, model right {right:.3f}")

# %%
# The noise is a chain like any other: where labels end up when they are flipped again
# and again, and how fast they forget where they began.
chain = model.transition_
print("stationary:", stationary(chain).distribution)
print("second eigenvalue:", second_eigenvalue(chain).modulus)

figure, axes = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
for ax, colors, title in (
    (axes[0], labels, "noisy labels"),
    (axes[1], model.predict(points), "classes found"),
):
    ax.scatter(*points.T, c=colors, s=3, cmap="viridis")
    ax.set_title(title)
axes[2].imshow(chain.to_dense(), vmin=0, vmax=1)
for i, j in torch.cartesian_prod(torch.arange(3), torch.arange(3)).tolist():
    found = chain.to_dense()[i, j]
    axes[2].text(j, i, f"{found:.2f}\n({flow[i, j]:.2f})", ha="center", va="center",
                 color="white" if found < 0.5 else "black")  # fmt: skip
axes[2].set(title="transition found (true)", xlabel="label", ylabel="class")
axes[2].set(xticks=range(3), yticks=range(3))
plt.show()
