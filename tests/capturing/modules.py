"""Modules that call attention in the many ways it can be called."""

import torch
from torch import nn
from torch.nn import functional


class Attending(nn.Module):
    """Calls fused attention on whatever it is given."""

    def forward(self, *args, **kwargs):
        return functional.scaled_dot_product_attention(*args, **kwargs)


class ByHand(nn.Module):
    """Computes attention as a softmax of scores, as old models do."""

    def forward(self, x):
        attention = (x @ x.mT).softmax(-1)
        return attention @ x


class HiddenAttention(nn.Module):
    """Weighs values without multiplying matrices, so that it cannot be followed."""

    def forward(self, x):
        attention = (x @ x.mT).softmax(-1)
        return (attention[..., None] * x[..., None, :, :]).sum(-2)


class Layers(nn.Module):
    """Several attending layers in a row, over one sequence."""

    def __init__(self, n_layers=4, *, stop_after=None, times=1):
        super().__init__()
        self.layers = nn.ModuleList(Attending() for _ in range(n_layers))
        self.stop_after, self.times = stop_after, times

    def forward(self, x):
        for layer in self.layers:
            for _ in range(self.times):
                x = layer(x, x, x)
            if layer is self.layers[-1] and self.stop_after is not None:
                raise self.stop_after
        return x


class CrossAttending(nn.Module):
    """Queries of one sequence, keys of another of the same length."""

    def __init__(self):
        super().__init__()
        self.attn = Translating()

    def forward(self, x, context):
        return self.attn(x, encoder_hidden_states=context)


class Translating(nn.Module):
    """Attention to the sequence given as encoder_hidden_states."""

    def forward(self, x, encoder_hidden_states):
        other = encoder_hidden_states
        return functional.scaled_dot_product_attention(x, other, other)


def sequence(*shape, seed=0):
    """Random numbers of some shape."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
