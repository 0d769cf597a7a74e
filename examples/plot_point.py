"""The object under a point
========================

A walk from the patch under a point, out along attention and back, ends among patches
that attend to the same things: the object the point lies on.
"""

from pathlib import Path

import matplotlib.pyplot as plt

from attnchain import segment
from attnchain.models import read_picture
from attnchain.plot import plot_labels, plot_map

HERE = Path(__file__).parent if "__file__" in globals() else Path()

picture = read_picture(HERE / "coffee.png")
points = {"cup": (300, 190), "table": (60, 60)}

figure, axes = plt.subplots(2, 2, figsize=(9, 7), layout="constrained")
for (name, point), (left, right) in zip(points.items(), axes, strict=True):
    found = segment(picture, point=point, size=392)
    title = f"out and back from {point}"
    plot_map(found.maps[0], ax=left, title=title, label="of the largest value")
    names = ["rest", name]
    ax = plot_labels(found.labels, picture, names, ax=right, title="Otsu's threshold")
    ax.plot(*point, "+", color="white", markersize=12, markeredgewidth=3)
plt.show()
