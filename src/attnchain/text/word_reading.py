"""Words of a prompt in one picture: at several noise levels, or step by step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from attnchain.capturing import TextTokens, check_known
from attnchain.errors import ArgumentError
from attnchain.files import AbstractResult, Outputs
from attnchain.maps import enlarge
from attnchain.markov import Direction
from attnchain.models import LoadedPipeline, of_kind
from attnchain.plot import save_figure, save_labels, save_map, segment_colors
from attnchain.text.diffusion import read_diffusion, read_generation
from attnchain.text.prompt_attention import TextAttention, together
from attnchain.text.words import (
    WordSegmentation,
    all_words,
    segment_words,
    walks_from,
)

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_WORDS = 64
"""Words of one reading, the background included; each has a file of its own."""
_WALK: dict[str, Any] = {"bounces": 2, "direction": "outgoing", "damping": 0.99}
_MAPS = tuple(f"-words-map-{number}.png" for number in range(1, MOST_WORDS + 1))


@dataclass(frozen=True, eq=False, kw_only=True)
class WordReading(AbstractResult):
    """Where the words of a prompt lie in a picture.

    Attributes:
        segmentation: The picture divided among the words, all levels mixed.
        levels: What was read, one for each noise level or denoising step.
        level_names: What each of them is: "noise 0.5", "step 3 of 20".
        words: Words that were asked for, then those of the background.
        bounces: Of the walks of the segmentation.
        direction: Of those walks.
        damping: Of all walks.
        prompt: The text that the model was given.
        drawn: Whether the picture was drawn from the prompt.
        model_name: Name of the model.
        model_note: What its weights are.
    """

    ending: ClassVar[str] = "-words.json"
    beside: ClassVar[tuple[str, ...]] = (
        *("-words-segments.png", "-words-figure.png", "-words-picture.png"),
        "-words-page.html",
        *_MAPS,
    )

    segmentation: WordSegmentation
    levels: tuple[TextAttention, ...]
    level_names: tuple[str, ...]
    words: tuple[str, ...]
    bounces: int
    direction: Direction
    damping: float
    prompt: str
    drawn: bool
    model_name: str
    model_note: str

    @property
    def picture(self) -> "Image":
        """The picture that was read, or drawn."""
        picture = self.levels[0].picture
        assert picture is not None  # noqa: S101  (both ways to read keep it)
        return picture

    def walks(
        self, level: int | None, bounces: int, direction: Direction
    ) -> Float[Tensor, "words rows columns"]:
        """Where walkers from each word are at one level, each map scaled to sum one.

        Args:
            level: Index into `levels`; None for their mixture.
            bounces: See `TextAttention.walk`.
            direction: See `TextAttention.walk`.
        """
        mixed = self.segmentation.attention
        attention = mixed if level is None else self.levels[level]
        options: Any = {"direction": direction, "damping": self.damping}
        return walks_from(attention, self.words, bounces=bounces, **options)

    def summary(self) -> str:
        grid = self.segmentation.attention.grid
        levels = ", ".join(self.level_names[:1])
        if len(self.level_names) > 1:
            levels = f"{len(self.level_names)} levels, {levels} to"
            levels += f" {self.level_names[-1]}"
        lines = [
            f"{self.model_name}: {self.model_note}",
            f"prompt {self.prompt!r}; {grid.rows} x {grid.columns} patches, {levels}",
            *self.segmentation.findings(),
        ]
        return "\n".join(lines)

    def facts(self) -> dict[str, Any]:
        from matplotlib.colors import to_hex

        found = self.segmentation
        attention = found.attention
        peaks = (found.walks.flatten(1).amax(1) * attention.grid.n_patches).tolist()
        return {
            "model": self.model_name,
            "model_note": self.model_note,
            "prompt": self.prompt,
            "patches": [attention.grid.rows, attention.grid.columns],
            "levels": self.level_names,
            "bounces": self.bounces,
            "direction": self.direction,
            "damping": self.damping,
            **found.facts(),
            "legend": [
                {"label": label, "name": name, "colour": to_hex(colour)}
                for label, (name, colour) in enumerate(
                    zip(found.names, segment_colors(len(found.names)), strict=True)
                )
            ],
            "maps": [
                {"word": word, "ending": ending, "peak": peak}
                for word, ending, peak in zip(self.words, _MAPS, peaks, strict=False)
            ],
        }

    def write(self, outputs: Outputs) -> None:
        found = self.segmentation
        height, width = found.labels.shape
        save_labels(found.labels, outputs.path("-words-segments.png"))
        save_figure(found.plot(), outputs.path("-words-figure.png"))
        if self.drawn:
            self.picture.save(outputs.path("-words-picture.png"))
        for walk, ending in zip(found.walks, _MAPS, strict=False):
            large = enlarge(walk / walk.max(), width=width, height=height)
            save_map(large, outputs.path(ending))


def read_words(
    model: LoadedPipeline,
    picture: "Image",
    words: Sequence[str],
    *,
    prompt: str | None = None,
    background: Sequence[str] = (),
    noise: Sequence[float] = (0.5,),
    **options: Any,
) -> WordReading:
    """Where words lie in a picture of one's own, by a text-to-image model.

    Args:
        model: What `load` returned, or a pipeline of your own in a `LoadedPipeline`.
        picture: A Pillow picture.
        words: Words or phrases; at most 64 with those of the background.
        prompt: Text that holds them; by default the words themselves, with commas.
        background: Further words that compete but are not asked for.
        noise: Noise levels in (0, 1], see `read_diffusion`; the picture is read at
            each, and divided by their mixture.
        **options: Of the walk: bounces (2), direction ("outgoing") and damping (0.99),
            see `TextAttention.walk`. All others are those of `read_diffusion`: size,
            layers, weights, seed.

    Returns:
        `WordReading`.

    Raises:
        ArgumentError: No words, a word twice, too many, an empty prompt, no noise
            level, or an argument out of range.
        WordNotFoundError: A word is not in the prompt, beyond what the model reads, or
            not in its vocabulary.
        UnsupportedModelError: The model reads no prompt, or cannot be shown a picture.
    """
    text = checked_prompt(prompt, words, background)
    of_kind(model, LoadedPipeline)
    check_known(model.pipeline, all_words(words, background))
    if not noise:
        raise ArgumentError("noise must be one level or more, but is empty")
    walk, reading = _split(options)
    levels = tuple(
        read_diffusion(model.pipeline, picture, text, noise=level, **reading)
        for level in noise
    )
    names = tuple(f"noise {level:g}" for level in noise)
    given: Any = {"level_names": names, "prompt": text, "drawn": False}
    return _reading(model, levels, words, background, **walk, **given)


def draw_words(
    model: LoadedPipeline,
    prompt: str,
    words: Sequence[str],
    *,
    background: Sequence[str] = (),
    **options: Any,
) -> WordReading:
    """Draws a prompt, and tells where its words lie in the picture, step by step.

    Args:
        model: As for `read_words`.
        prompt: What is drawn.
        words: Words or phrases of it.
        background: As for `read_words`.
        **options: Of the walk, as for `read_words`. All others are those of
            `read_generation`: n_steps, size, layers, weights, seed.

    Returns:
        `WordReading`, with the picture; it is divided by the mixture of all steps.

    Raises:
        ArgumentError: As for `read_words`.
        WordNotFoundError: As for `read_words`.
        UnsupportedModelError: The model reads no prompt.
    """
    text = checked_prompt(prompt, words, background)
    of_kind(model, LoadedPipeline)
    check_known(model.pipeline, all_words(words, background))
    walk, reading = _split(options)
    levels = read_generation(model.pipeline, text, **reading)
    count = len(levels)
    names = tuple(f"step {number} of {count}" for number in range(1, count + 1))
    given: Any = {"level_names": names, "prompt": text, "drawn": True}
    return _reading(model, levels, words, background, **walk, **given)


def _split(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the walk, and all others."""
    walk = {name: options.get(name, usual) for name, usual in _WALK.items()}
    return walk, {name: x for name, x in options.items() if name not in walk}


def checked_prompt(
    prompt: str | None, words: Sequence[str], background: Sequence[str] = ()
) -> str:
    """A prompt that holds all words; what is wrong is said before any model runs.

    Args:
        prompt: The text; None for the words themselves, with commas.
        words: Words or phrases of it.
        background: Further ones.

    Returns:
        The prompt.

    Raises:
        ArgumentError: No words, a word twice, too many, or an empty prompt.
        WordNotFoundError: A word is not in the prompt.

    Example:
        >>> checked_prompt(None, ["red shirt", "blue bag"])
        'red shirt, blue bag'
    """
    names = all_words(words, background)
    if len(names) > MOST_WORDS:
        message = f"at most {MOST_WORDS} words are read at once, but got {len(names)}"
        raise ArgumentError(message)
    text = ", ".join(names) if prompt is None else prompt
    if not text.strip():
        raise ArgumentError("the prompt is empty; give a text that holds the words")
    whole = TextTokens(text, ((0, len(text)),))
    for name in names:
        whole.find(name)
    return text


def _reading(
    model: LoadedPipeline,
    levels: tuple[TextAttention, ...],
    words: Sequence[str],
    background: Sequence[str],
    **asked: Any,
) -> WordReading:
    """The levels with the picture divided by their mixture."""
    walk = {name: asked[name] for name in _WALK}
    mixed = together(levels)
    return WordReading(
        segmentation=segment_words(mixed, words, background=background, **walk),
        levels=levels,
        words=all_words(words, background),
        model_name=model.name,
        model_note=model.note,
        **asked,
    )
