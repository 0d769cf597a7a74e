"""Random weights that matter."""

import torch


class BreaksIn:
    """A module breaks down at a call inside the block, as when the user interrupts."""

    def __init__(self, attention, error, call=1):
        self.module = attention.to_out[0]
        self.error, self.call, self.calls = error, call, 0

    def __enter__(self):
        self.hook = self.module.register_forward_pre_hook(self.count)

    def __exit__(self, *_):
        self.hook.remove()

    def count(self, *_):
        self.calls += 1
        if self.calls == self.call:
            raise self.error


def stir(module, seed=0, size=0.2):
    """Weights large enough that attention is far from uniform."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            if weight.ndim > 1:
                weight.copy_(size * torch.randn(weight.shape, generator=generator))
    if hasattr(module, "conv_out"):
        with torch.no_grad():
            module.conv_out.weight.mul_(0.1)
