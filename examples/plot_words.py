"""Words in a picture
==================

A small text-to-image transformer that comes with the package is shown a composed
picture and a prompt. A walk from a word, against attention, arrives at the word's
garment, also on a grey copy, where only the shape tells a boot from a pullover.
"""

from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image

import attnchain as ac
from attnchain.plot import plot_labels
from attnchain.text import read_words

HERE = Path(__file__).parent if "__file__" in globals() else Path()
WORDS = ["green boot", "yellow pullover", "purple trousers"]

model = ac.load("garments-mmdit")
picture = Image.open(HERE / "garments.png").convert("RGB")
prompt = "green boot, yellow pullover, purple trousers on dots"
options = {"prompt": prompt, "background": ["dots"]}
found = read_words(model, picture, WORDS, noise=[0.2], **options)
parts = found.segmentation
figure, axes = plt.subplots(1, 4, figsize=(11, 3), layout="constrained")
for ax, word, walk in zip(axes, WORDS, parts.walks, strict=False):
    ax.imshow(walk)
    ax.set_title(word)
plot_labels(parts.labels, picture, parts.names, ax=axes[3], title="words")

# %%
# More bounces spread a word's map over its object, then over all objects.
figure, axes = plt.subplots(2, 4, figsize=(9, 4.6), layout="constrained")
for column, bounces in enumerate((1, 2, 3, 8)):
    axes[0, column].imshow(found.walks(0, bounces, "outgoing")[1])
    axes[0, column].set_title(f"pullover, bounces: {bounces}")
    axes[1, column].imshow(found.walks(0, bounces, "incoming")[1])
    axes[1, column].set_title("incoming")

# %%
# On a grey copy, by the garments' words alone.
grey = picture.convert("L").convert("RGB")
names = [word.split()[1] for word in WORDS]
shapes = read_words(model, grey, names, noise=[0.5], bounces=3, **options)
figure, ax = plt.subplots(figsize=(4.2, 3.4), layout="constrained")
parts = shapes.segmentation
plot_labels(parts.labels, grey, parts.names, ax=ax, title="words on grey")
plt.show()
