"""A text
======

The attention of a sentence encoder among the words of a text: how metastable every head
is, which words attention arrives at in the long run, and groups of words among which it
stays, out and back. One text, chosen to show what a group is.
"""

import matplotlib.pyplot as plt

from attnchain import read_text
from attnchain.models import load
from attnchain.plot import segment_colors

TEXT = (
    "The keys to the old cabinet in the kitchen are on the table. Nobody knows who "
    "left them there, but the cat was asleep on the chair next to it."
)

reading = read_text(load("all-minilm-l6-v2"), TEXT)
print(reading.summary())

# %%
# Bars are the incoming TokenRank of each word, in the colour of its group.
figure, (heads, words) = plt.subplots(
    1, 2, figsize=(13, 5), width_ratios=(1.2, 1), layout="constrained"
)
reading.plot(ax=heads)
groups = reading.groups
colors = (
    "0.5" if groups is None else segment_colors(len(groups.prevalence))[groups.labels]
)
places = range(len(reading.tokens))
words.barh(places, reading.incoming.distribution, color=colors)
words.set_yticks(places, reading.tokens, fontsize="x-small")
words.invert_yaxis()
words.set_xlabel("incoming TokenRank")
plt.show()
