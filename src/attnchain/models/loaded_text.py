"""A loaded language model or speech recogniser with what its input needs."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from attnchain.checks import check_positive
from attnchain.errors import ArgumentError, ShapeError


@dataclass(frozen=True, eq=False)
class LoadedText:
    """A language model in evaluation mode, and how text enters it.

    Attributes:
        name: The name it was loaded by.
        note: One sentence on what the weights are; show it beside results.
        model: The module; call it with what `tokens` returns, as keywords.
        tokenizer: That of transformers, for all that `tokens` does not do.
    """

    name: str
    note: str
    model: nn.Module
    tokenizer: Any

    def tokens(self, text: str) -> dict[str, Int[Tensor, "1 n"]]:
        """Turn a text into the model's input, one row on the model's device.

        Args:
            text: A text; special tokens are added as the tokenizer does.

        Raises:
            ArgumentError: It is no text, has no token, or has more tokens than the
                model has positions.
        """
        if not isinstance(text, str):
            message = f"text must be a string, but is {type(text).__name__}"
            raise ArgumentError(message)
        encoded = self.tokenizer(text, return_tensors="pt", verbose=False)
        length = encoded["input_ids"].shape[-1]
        if not length:
            raise ArgumentError(f"the text {text!r} has no token")
        config: Any = self.model.config
        most = getattr(config.get_text_config(), "max_position_embeddings", None)
        if most is not None and length > most:
            raise ArgumentError(
                f"the text has {length:,} tokens, but {self.name!r} has positions for "
                f"{most:,}; give a shorter text, or its parts one by one"
            )
        return dict(encoded.to(_device(self.model)))


@dataclass(frozen=True, eq=False)
class LoadedSpeech:
    """A speech recogniser in evaluation mode, and how sound enters it.

    Attributes:
        name: The name it was loaded by.
        note: One sentence on what the weights are; show it beside results.
        model: The module; call it with `input_features` and `decoder_input_ids`.
        tokenizer: That of transformers.
        extractor: That of transformers, from sound to the features of 30 seconds.
    """

    name: str
    note: str
    model: nn.Module
    tokenizer: Any
    extractor: Any

    def features(
        self, sound: Float[Tensor, " samples"], *, rate: int
    ) -> Float[Tensor, "1 mels frames"]:
        """Turn sound into the model's input: log-mel energies of 30 seconds.

        Args:
            sound: Samples of one channel, in -1 to 1; at most 30 seconds.
            rate: Samples a second, which must be the model's.

        Raises:
            ShapeError: There is more than one channel.
            ArgumentError: Another rate, no sample, or more than the model hears.
        """
        wanted = self.extractor.sampling_rate
        check_positive(rate, "rate")
        if rate != wanted:
            message = f"rate must be {wanted}, that of {self.name!r}, but is {rate}"
            raise ArgumentError(f"{message}; resample the sound first")
        if sound.ndim != 1:
            message = f"sound must be (samples,), but is {tuple(sound.shape)}"
            raise ShapeError(message)
        most = self.extractor.n_samples
        if not 0 < len(sound) <= most:
            raise ArgumentError(
                f"sound must have 1 to {most:,} samples ({most // wanted} s), but has "
                f"{len(sound):,}; give its parts one by one"
            )
        values = sound.detach().float().cpu().numpy()
        found = self.extractor(values, sampling_rate=wanted, return_tensors="pt")
        return found["input_features"].to(_device(self.model))


def _device(model: nn.Module) -> Any:
    return next(model.parameters()).device
