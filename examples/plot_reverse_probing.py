"""How many bits do labels tell about states?
==========================================

A reverse probe predicts the state of a token, such as its cluster or metastable set,
from what people call the token. What it gains over the frequencies of the states, on
pictures it has not learned from, is a lower bound on their mutual information. It adds
up what single concepts say, and is blind to everything else.
"""

import matplotlib.pyplot as plt
import torch

from attnchain.methods import ablate, reverse_probe

# %%
# Three concepts that hold by chance, for the 20 patches of each of 300 pictures.
generator = torch.Generator().manual_seed(0)
said = torch.rand(6000, 3, generator=generator) < 0.5
animal, red, outside = said.T
pictures = torch.arange(6000) // 20
shuffled = torch.randperm(6000, generator=generator)

# %%
# Four kinds of states, and the exclusive or once more with the product as a concept of
# its own: the one bit is seen only then.
both = torch.cat([said, (animal & red)[:, None]], 1)
cases = {
    "2 animal + red": (2 * animal.long() + red, said),
    "animal and red": ((animal & red).long(), said),
    "either animal or red": ((animal ^ red).long(), said),
    "the same, product known": ((animal ^ red).long(), both),
    "2 animal + red, shuffled": ((2 * animal.long() + red)[shuffled], said),
}
probes = {
    name: reverse_probe(states, concepts, groups=pictures)
    for name, (states, concepts) in cases.items()
}
for name, probe in probes.items():
    told = f"{probe.bits:.3f} ± {probe.standard_error:.3f} of {probe.entropy:.3f} bits"
    print(f"{name}: {told}")
print("names:", probes["2 animal + red"].names(["animal", "red", "outside"]))
families = {"what": [0], "colour": [1], "where": [2]}
print("left out:", ablate(*cases["2 animal + red"], families, groups=pictures))

figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
places = range(len(probes))
ax.barh(places, [p.entropy for p in probes.values()], color="lightgrey")
ax.barh(places, [p.bits for p in probes.values()], height=0.4)
ax.set_yticks(places, probes)
ax.invert_yaxis()
ax.set_xlabel("bits told (blue) of the entropy of the states (grey)")
plt.show()
