"""Parts of a diffusers pipeline that works on pixels, and reads prompts word by word.

Imported by diffusers itself when it loads such a pipeline.
"""

from collections.abc import Sequence
from typing import Any, Final

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, IdentityDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerFast

LENGTH: Final = 16
"""Tokens of a prompt, its end included."""
SPECIAL: Final = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}

_R2, _R3, _R6 = 2**-0.5, 3**-0.5, 6**-0.5
OPPONENT: Final = ((_R3, _R3, _R3), (_R2, 0.0, -_R2), (_R6, -2 * _R6, _R6))
"""Lightness, red against blue, green against both: orthonormal rows."""


class PixelAutoencoder(ModelMixin, ConfigMixin):
    r"""In place of an autoencoder: lightness and colour of every pixel, nothing lost.

    With rgb in [-1, 1] and the orthonormal matrix $O$ of lightness and two opponent
    colours, $z = s \odot (O\,rgb - m)$. Lightness is scaled up and colour down, so that
    noise hides colour long before shape.

    Args:
        light: Scale of lightness.
        colour: Scale of both opponent colours.
        middle: Lightness, times the square root of 3, that becomes 0.
        latent_channels: diffusers takes a picture of so many channels for one that is
            encoded already; latents have three, as pictures do, so none is.
        block_out_channels: One level: latents are as large as the picture.
        scaling_factor: Of the latents, by diffusers; none.
        shift_factor: Of the latents, by diffusers; none.
    """

    @register_to_config
    def __init__(
        self,
        *,
        light: float = 6.0,
        colour: float = 0.3,
        middle: float = -0.73,
        latent_channels: int = 0,
        block_out_channels: tuple[int, ...] = (3,),
        scaling_factor: float = 1.0,
        shift_factor: float = 0.0,
    ) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.tensor(OPPONENT))
        scale = torch.tensor([light, colour, colour])[:, None, None]
        self.register_buffer("scale", scale)
        shift = torch.tensor([middle, 0.0, 0.0])[:, None, None]
        self.register_buffer("shift", shift)

    def encode(
        self, x: Float[Tensor, "b 3 height width"], *, return_dict: bool = True
    ) -> Any:
        turned = torch.einsum("ij,bjhw->bihw", self.matrix.to(x), x)
        latents = IdentityDistribution(self.scale.to(x) * (turned - self.shift.to(x)))
        return AutoencoderKLOutput(latents) if return_dict else (latents,)

    def decode(
        self,
        z: Float[Tensor, "b 3 height width"],
        return_dict: bool = True,
        generator: object = None,
    ) -> Any:
        turned = z / self.scale.to(z) + self.shift.to(z)
        pixels = torch.einsum("ij,bihw->bjhw", self.matrix.to(z), turned)
        return DecoderOutput(pixels) if return_dict else (pixels,)


class WordTokenizer(PreTrainedTokenizerFast):
    """One token a word; FLUX asks for 512 tokens, and gets as many as there are."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("max_length"):
            kwargs["max_length"] = min(kwargs["max_length"], self.model_max_length)
        return super().__call__(*args, **kwargs)


def word_tokenizer(words: Sequence[str]) -> WordTokenizer:
    """A tokenizer that knows these words.

    Args:
        words: All words and signs of its prompts.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from tokenizers.processors import TemplateProcessing

    numbers = {word: number for number, word in enumerate((*SPECIAL.values(), *words))}
    tokenizer = Tokenizer(models.WordLevel(numbers, SPECIAL["unk_token"]))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", numbers["</s>"])]
    )
    return WordTokenizer(tokenizer_object=tokenizer, model_max_length=LENGTH, **SPECIAL)
