"""`attnchain words`: where words lie in a picture of one's own, or in a drawn one."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from attnchain.cli import options
from attnchain.cli.session import Task, answer
from attnchain.files import DESCRIPTIONS, AbstractResult, Outputs

_LETTERS = 60
"""Of a prompt, that name the files of the picture drawn from it."""

Words = Annotated[
    str,
    options.unset("--words", metavar="A,B", help="Words or phrases to find."),
]
Background = Annotated[
    str | None,
    options.unset(metavar="A,B", help="Further words that compete for the pixels."),
]
Prompt = Annotated[
    str | None,
    options.unset(help="Text that holds the words; by default they themselves."),
]
Generate = Annotated[
    str | None,
    options.unset(metavar="PROMPT", help="Draw this prompt instead of reading IMAGE."),
]
Noise = Annotated[
    str | None,
    options.unset(
        metavar="A,B",
        help="Noise levels in (0, 1] that IMAGE is read at; 0.5 by default.",
    ),
]
Steps = Annotated[
    int | None,
    options.unset(help="Denoising steps of --generate; by default the model's.", min=1),
]


def words(  # noqa: PLR0913, PLR0917  (one parameter for each option)
    image: Annotated[
        Path | None,
        typer.Argument(metavar="[IMAGE]", help="A picture file.", show_default=False),
    ] = None,
    words_: Words = "",
    generate: Generate = None,
    prompt: Prompt = None,
    background: Background = None,
    range_: options.Range = None,
    model: Annotated[
        str,
        typer.Option(
            help="Packaged model, or a hub name or folder of a diffusers pipeline."
        ),
    ] = "garments-mmdit",
    noise: Noise = None,
    steps: Steps = None,
    bounces: Annotated[int, typer.Option(help="Bounces of the walks.", min=1)] = 2,
    direction: options.Direction = "outgoing",
    damping: options.Damping = 0.99,
    layers: options.Layers = None,
    weights: Annotated[
        Literal["lambda2", "uniform"], typer.Option(help="How heads are weighted.")
    ] = "lambda2",
    size: Annotated[int | None, options.size_option("what the model draws")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise.", min=0)] = 0,
    page: Annotated[
        bool, typer.Option("--page", help="Write a page with sliders, too.")
    ] = False,
    out: options.Out = Path("out"),
    json_: options.Json = False,
) -> None:
    """Find words in a picture, by the attention of a text-to-image model."""
    asked: dict[str, Any] = {
        "words": split_words(words_, "--words"),
        "background": split_words(background, "--background"),
        "bounces": bounces,
        "direction": direction,
        "damping": damping,
        "layers": options.parse_layers(layers),
        "weights": weights,
        "size": size,
        "seed": seed,
    }
    if generate is not None:
        _refuse(generate, IMAGE=image, noise=noise, prompt=prompt, range=range_)
        task = Drawing(Path(), None, model, out, json_, generate, seed, steps)
        asked |= {"prompt": generate, "n_steps": steps}
    elif image is None:
        raise typer.BadParameter("give a picture file, or --generate PROMPT")
    elif steps is not None:
        message = "a picture is read at noise levels (--noise); steps are of --generate"
        raise typer.BadParameter(message, param_hint="--steps")
    else:
        task = Task(image, range_, model, out, json_)
        asked |= {"prompt": prompt, "noise": parse_noise(noise)}
    _find(task, asked, page=page)


@dataclass(frozen=True)
class Drawing(Task):
    """A picture that is yet to be drawn.

    Attributes:
        prompt: From what.
        seed: Of the noise that it begins with.
        steps: Denoising steps; None for what the model takes.
    """

    prompt: str
    seed: int
    steps: int | None

    def read(self) -> tuple[None, bytes]:
        return None, self.prompt.encode()

    @property
    def source(self) -> dict[str, Any]:
        return {"image": None}

    def outputs(self, kind: type[AbstractResult]) -> Outputs:
        words = re.sub(r"\W+", "-", self.prompt.lower()).strip("-")[:_LETTERS]
        whole = f"{self.prompt}\n{self.seed}\n{self.steps}\n{self.model}"
        drawn = hashlib.sha256(whole.encode()).hexdigest()[:16]
        return Outputs(
            self.out,
            words or "drawn",
            endings=(kind.ending, *kind.beside),
            source=self.out / drawn,
            siblings=DESCRIPTIONS,
        )


def _refuse(generate: str, **given: Any) -> None:
    """What only a picture of one's own has, beside --generate."""
    for name, value in given.items():
        if value is not None:
            named = name if name.isupper() else f"--{name}"
            message = f"{generate!r} is drawn, so that {named} has no meaning; leave it"
            raise typer.BadParameter(f"{message} out", param_hint="--generate")


def _find(task: Task, asked: dict[str, Any], *, page: bool) -> None:
    from attnchain.models import LoadedPipeline
    from attnchain.page import WordsPage
    from attnchain.text import WordReading, checked_prompt, draw_words, read_words

    words = (asked["words"], asked["background"])
    settings = {**asked, "prompt": checked_prompt(asked["prompt"], *words)}

    def question(picture: Any, model: LoadedPipeline) -> WordReading:
        if picture is None:
            return draw_words(model, **settings)
        return read_words(model, picture, **settings)

    def write(result: WordReading, outputs: Outputs) -> None:
        result.write(outputs)
        if page:
            WordsPage(result, outputs.stem).write(outputs)

    answer(
        question,
        task,
        kind=WordReading,
        command="words",
        settings=settings,
        write=write,
        reads=LoadedPipeline,
    )


def split_words(text: str | None, option: str) -> tuple[str, ...]:
    """Words from "red shirt,blue bag".

    Args:
        text: The text; None for no words.
        option: The option that it was given by.

    Raises:
        typer.BadParameter: A word is empty.
    """
    if text is None or (not text.strip() and option == "--words"):
        return ()
    found = tuple(part.strip() for part in text.split(","))
    if not all(found):
        message = f"words must look like 'red shirt,blue bag', but are {text!r}"
        raise typer.BadParameter(message, param_hint=option)
    return found


def parse_noise(text: str | None) -> tuple[float, ...]:
    """Noise levels from "0.3,0.5"; 0.5 without any.

    Raises:
        typer.BadParameter: The text has another form.
    """
    if text is None:
        return (0.5,)
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        message = f"noise must look like 0.5 or 0.3,0.6, but is {text!r}"
        raise typer.BadParameter(message, param_hint="--noise") from error
