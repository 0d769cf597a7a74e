"""Regions by merging
==================

DiffSeg merges the attention maps of some anchor patches while they are alike. Its
anchors lie on a regular grid; TokenRank places them where attention arrives.
"""

from pathlib import Path

import matplotlib.pyplot as plt

from attnchain.methods.diffseg import segment_regions
from attnchain.models import load, read_picture
from attnchain.plot import plot_labels
from attnchain.vision import DEFAULT_LAYERS, read_attention

HERE = Path(__file__).parent if "__file__" in globals() else Path()

picture = read_picture(HERE / "coffee.png")
attention = read_attention(picture, load(), layers=DEFAULT_LAYERS, size=392)

figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
for anchors, ax in zip(("grid", "token_rank"), axes, strict=True):
    found = segment_regions(attention, anchors=anchors)
    title = f"{len(found.anchors)} anchors: {anchors}"
    plot_labels(found.labels, picture, found.names, ax=ax, title=title)
    places = [attention.patch_centre(patch) for patch in found.anchors]
    ax.plot(*zip(*places, strict=True), ".", color="white", markersize=3)
plt.show()
