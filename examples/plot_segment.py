"""Sets and the main object
========================

Attention of a vision transformer as a Markov chain over the patches of a picture:
its metastable sets, among which a walker stays, are the segments. The main object is
what a linear probe calls object, and what the class token sees after ten bounces.
"""

from pathlib import Path

import matplotlib.pyplot as plt

from attnchain import segment
from attnchain.models import read_picture
from attnchain.plot import plot_labels

HERE = Path(__file__).parent if "__file__" in globals() else Path()

folder = HERE
pictures = [read_picture(folder / f"{name}.png") for name in ("chelsea", "coffee")]

# %%
# The chain chooses the number of sets, where its eigenvalues drop most. Prevalence is
# the share of walkers in a set, retention the share of them that stay in one bounce.
figure, axes = plt.subplots(len(pictures), 2, figsize=(9, 7), layout="constrained")
for picture, (left, right) in zip(pictures, axes, strict=True):
    sets = segment(picture, size=392)
    plot_labels(sets.labels, picture, sets.legend, ax=left, title=sets.title)
    main = segment(picture, foreground=True, size=392)
    plot_labels(main.labels, picture, main.legend, ax=right, title="main object")
plt.show()
