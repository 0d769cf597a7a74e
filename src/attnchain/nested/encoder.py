"""A small vision transformer with concept tokens that see only what came before."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


def concept_mask(patches: int, tokens: int) -> Bool[Tensor, "n n"]:
    """Who may attend to whom (row to column), in the order CLS, patches, tokens.

    CLS and patches attend among themselves and never see a token; token i sees all
    of them and tokens 1..i. Read as a chain, CLS and patches are the closed class and
    all tokens are transient: pi gives them nothing.

    Args:
        patches: Number of patches.
        tokens: Number of concept tokens.

    Example:
        >>> concept_mask(1, 2).int()
        tensor([[1, 1, 0, 0],
                [1, 1, 0, 0],
                [1, 1, 1, 0],
                [1, 1, 1, 1]], dtype=torch.int32)
    """
    seen = 1 + patches
    mask = torch.ones(seen + tokens, seen + tokens, dtype=torch.bool).tril()
    mask[:seen, :seen] = True
    return mask


class Block(nn.Module):
    """Pre-norm attention and perceptron, each added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.perceptron = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(
        self, x: Float[Tensor, "b n width"], mask: Bool[Tensor, "n n"]
    ) -> Float[Tensor, "b n width"]:
        """One layer, in which only what the mask allows is seen."""
        parts = self.qkv(self.before(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        seen = scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return x + self.perceptron(self.between(x))


class ConceptEncoder(nn.Module):
    """Pictures to K ordered tokens of d channels.

    Args:
        patches: Number of patches of a picture.
        pixels: Numbers in a patch.
        tokens: K.
        channels: d.
        width: Features inside.
        depth: Layers.
        heads: Of each layer.
    """

    mask: Tensor

    def __init__(
        self,
        patches: int,
        pixels: int,
        *,
        tokens: int,
        channels: int,
        width: int,
        depth: int,
        heads: int,
    ) -> None:
        super().__init__()
        self.patch_size = pixels
        self.tokens = tokens
        self.embed = nn.Linear(pixels, width)
        self.start = nn.Parameter(0.02 * torch.randn(1 + patches + tokens, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, channels)
        mask = concept_mask(patches, tokens)
        self.register_buffer("mask", mask, persistent=False)

    def forward(
        self, patches: Float[Tensor, "b patches pixels"]
    ) -> Float[Tensor, "b K d"]:
        """The tokens of each picture, first to last."""
        state = self.start.expand(len(patches), -1, -1)
        first, last = 1, 1 + patches.shape[1]
        inside = state[:, first:last] + self.embed(patches)
        state = torch.cat([state[:, :first], inside, state[:, last:]], 1)
        for block in self.blocks:
            state = block(state, self.mask)
        return self.head(self.norm(state[:, -self.tokens :]))
