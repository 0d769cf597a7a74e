"""A small vision transformer on Fashion-MNIST that attends inside groups only.

Used by `sec.py`. One network, one loop and one order of pictures for all four ways of
attention; only who sees whom differs. 49 patches in 7 groups of 7.
"""

import math
import time

import torch
from torch import nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from attnchain.methods import equitable_groups, even_groups, grouped_attention

SIDE, GROUPS, CLASSES = 7, 7, 10
PATCHES = SIDE * SIDE
WIDTH, HEADS, BLOCKS, BATCH = 64, 4, 3, 64
WAYS = ("full", "SEC", "windows (rows)", "random, fixed")


class Attention(nn.Module):
    """Multi-head attention in which a way decides who sees whom."""

    def __init__(self, way, seed):
        super().__init__()
        self.way = way
        self.project, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        draw = torch.rand(HEADS, PATCHES, generator=torch.Generator().manual_seed(seed))
        self.random = even_groups(draw, GROUPS)
        self.rows = torch.arange(PATCHES) // SIDE

    def forward(self, x):
        q, k, v = self.project(x).unflatten(-1, (3, HEADS, -1)).movedim(-3, 0)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        if self.way == "full":
            mixed = scaled_dot_product_attention(q, k, v)
        else:
            mixed = grouped_attention(q, k, v, self.labels(k))
        return self.out(mixed.transpose(1, 2).flatten(-2))

    def labels(self, keys):
        if self.way == "SEC":
            return equitable_groups(keys.detach(), GROUPS)
        if self.way.startswith("windows"):
            return self.rows
        return self.random.expand(len(keys), HEADS, PATCHES)


class Block(nn.Module):
    def __init__(self, way, seed):
        super().__init__()
        self.attention = Attention(way, seed)
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        layers = nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)
        self.perceptron = nn.Sequential(*layers)

    def forward(self, x):
        x = x + self.attention(self.first(x))
        return x + self.perceptron(self.second(x))


class Classifier(nn.Module):
    def __init__(self, way):
        super().__init__()
        self.patches = nn.Conv2d(1, WIDTH, 4, 4)
        self.places = nn.Parameter(0.02 * torch.randn(PATCHES, WIDTH))
        blocks = [Block(way, seed) for seed in range(BLOCKS)]
        self.blocks = nn.Sequential(*blocks, nn.LayerNorm(WIDTH))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, pictures):
        tokens = self.patches(pictures).flatten(2).mT + self.places
        return self.head(self.blocks(tokens).mean(1))


def trained(way, seed, data, steps):
    """Test accuracy after some steps, with what the run took."""
    pictures, labels, test, truth = data
    torch.manual_seed(seed)
    model = Classifier(way)
    order = torch.randint(
        len(labels), (steps, BATCH), generator=torch.Generator().manual_seed(seed)
    )
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda i: min(1, (i + 1) / 50) * 0.5 * (1 + math.cos(math.pi * i / steps)),
    )
    begun, losses = time.process_time(), []
    for chosen in order:
        loss = cross_entropy(model(pictures[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    took = time.process_time() - begun
    with torch.no_grad():
        found = torch.cat([model.eval()(x).argmax(-1) for x in test.split(1000)])
    return {
        "way": way,
        "seed": seed,
        "steps": steps,
        "accuracy": float((found == truth).float().mean()),
        "right": torch.nonzero(found == truth)[:, 0].tolist(),
        "last loss": sum(losses[-50:]) / 50,
        "cpu seconds": round(took, 1),
    }
