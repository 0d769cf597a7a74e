"""Clicks that compete
===================

A session of marks is an object that never changes: every click gives a new one, so
undo costs nothing. A mark that disagrees with the mask moves it, there and wherever
the same things are attended to.
"""

from pathlib import Path

import matplotlib.pyplot as plt

from attnchain.models import load, read_picture
from attnchain.plot import plot_labels
from attnchain.vision import DEFAULT_LAYERS, Clicks, read_attention

HERE = Path(__file__).parent if "__file__" in globals() else Path()

picture = read_picture(HERE / "astronaut.png")
attention = read_attention(picture, load(), layers=DEFAULT_LAYERS, size=392)

# %%
# One click on the suit, one on the face, one off the person; and a box instead.
suit = Clicks(attention).add(240, 330)
person = suit.add(225, 110)
no_helmet = person.add(400, 380, positive=False)
box = Clicks(attention).box(10, 0, 430, 512)

sessions = {
    "suit": suit,
    "and face": person,
    "not the helmet": no_helmet,
    "a box": box,
}
figure, axes = plt.subplots(1, 4, figsize=(14, 4.4), layout="constrained")
for (title, session), ax in zip(sessions.items(), axes, strict=True):
    found = session.segment()
    plot_labels(found.labels, picture, found.names, ax=ax, title=title)
    for mark in session.marks:
        for x, y in mark.pixels:
            ax.plot(x, y, "+" if mark.positive else "x", color="white", markersize=12)
print("undone:", no_helmet.undo().marks == person.marks)
plt.show()
