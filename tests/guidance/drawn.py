"""Random weights that matter."""

import torch


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
