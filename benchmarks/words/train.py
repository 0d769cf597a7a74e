"""Train the small FLUX on composed garments: 37 minutes of one CPU core.

Straight path x_t = (1 - t) x + t noise, velocity target noise - x. Lightness is scaled
up and colour down (`pixel_space`), so that for t of .6 to .95 a garment's shape can be
seen and its colour cannot: only the prompt tells it, by the garment's name. That part
of the path is drawn more often, and colour errors weigh more there. Muon for matrices,
AdamW for the rest, warm-up and a straight line to zero, averaged weights. The same
seed and steps give the same weights, also after an interruption.

    python benchmarks/words/train.py --data FOLDER --out FOLDER
"""

import argparse
import copy
import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from garments import COLOURS, DEFAULT_FOLDER, NAMES, Wardrobe, compose
from judge import JUDGE, Judge, load_judge
from model import (
    TEXT,
    TOKENIZER,
    TRANSFORMER,
    assemble,
    packed,
    parts,
    places,
    token_numbers,
)
from torch import nn

from attnchain.models.pixel_space import PixelAutoencoder

BATCH = 32
WARM_UP = 200
AVERAGING = 0.998
EMPTY = 0.1
LIGHT_WEIGHT = 0.4
COLOUR_WEIGHT = 80.0
ALIGNMENT = 0.5
ALIGNED = 1
"""Number of the two-stream block that is told what the judge sees."""
WIDTH = TRANSFORMER["num_attention_heads"] * TRANSFORMER["attention_head_dim"]
ERRORS = ("light", "colour", "seen", "hidden")


def batch_of(
    wardrobe: Wardrobe, seed: int, step: int
) -> tuple[torch.Tensor, list[str]]:
    """Pictures (b, 3, 32, 32) in [-1, 1] and their prompts; a tenth have none."""
    found = [compose(wardrobe, (seed, step, n), named=False) for n in range(BATCH)]
    pixels = torch.from_numpy(np.stack([c.picture for c in found])).permute(0, 3, 1, 2)
    keep = np.random.default_rng((seed, step)).random(BATCH) >= EMPTY
    return 2 * pixels - 1, [
        c.prompt * bool(k) for c, k in zip(found, keep, strict=True)
    ]


def noise_levels(count: int, generator: torch.Generator) -> torch.Tensor:
    """Three in four from .6 to .97, the others from all of (0, 1)."""
    low, high = torch.rand(2, count, generator=generator)
    often = torch.rand(count, generator=generator) < 0.75
    return torch.where(often, 0.6 + 0.37 * high, low)


class Words(nn.Module):
    """The denoiser, the encoder of its prompts, and a head that is left behind.

    The head tells from the second block what the judge sees on the grey picture: a
    diffusion model learns sooner with features of a network for pictures as a guide
    (REPA, Yu et al. 2024). The judge knows no words: which word belongs to a shape is
    learned from the denoising error alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.learned = nn.ModuleDict(parts())
        self.head = nn.Linear(WIDTH, len(NAMES) + 1)

    def forward(
        self, noisy: torch.Tensor, t: torch.Tensor, numbers: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Velocity (b, patches, 12) and scores of garments (b, patches, 9)."""
        seen: list[torch.Tensor] = []
        transformer = self.learned["transformer"]
        block = transformer.transformer_blocks[ALIGNED]
        hook = block.register_forward_hook(lambda *given: seen.append(given[-1][1]))
        velocity = transformer(
            hidden_states=noisy,
            encoder_hidden_states=self.learned["text"](numbers)[0],
            pooled_projections=torch.zeros(len(noisy), 8),
            timestep=t,
            img_ids=places(),
            txt_ids=torch.zeros(numbers.shape[1], 3),
        ).sample
        hook.remove()
        return velocity, self.head(seen[0])


def loss_of(
    model: Words,
    clean: torch.Tensor,
    seen: torch.Tensor,
    prompts: list[str],
    generator: torch.Generator,
) -> dict[str, torch.Tensor]:
    """Errors of lightness, colour and what is seen; `hidden`, where words tell."""
    t = noise_levels(len(clean), generator)
    noise = torch.randn(clean.shape, generator=generator)
    amount = t[:, None, None]
    noisy = (1 - amount) * clean + amount * noise
    velocity, scores = model(noisy, t, token_numbers(prompts))
    error = (velocity - (noise - clean)).square()
    light, colour = error[..., :4].mean((1, 2)), error[..., 4:].mean((1, 2))
    told = nn.functional.cross_entropy(scores.flatten(0, 1), seen.flatten(0, 1))
    return {
        "light": LIGHT_WEIGHT * light.mean(),
        "colour": (COLOUR_WEIGHT * (t.square() + 0.02) * colour).mean(),
        "seen": ALIGNMENT * told,
        "hidden": (colour * t.square())[(t > 0.6) & (t < 0.95)].mean().detach(),
    }


@torch.no_grad()
def seen_by(judge: Judge, pixels: torch.Tensor) -> torch.Tensor:
    """What the judge sees at every patch of grey copies (b, patches, 9): shares."""
    grey = ((pixels + 1) / 2).mean(1, keepdim=True).expand(-1, 3, -1, -1)
    shares = judge(grey)[0].softmax(1)
    return nn.functional.avg_pool2d(shares, 2).flatten(2).mT


def teach_text(
    text: nn.Module, wardrobe: Wardrobe, seed: int, steps: int = 400
) -> None:
    """The encoder of prompts first: at a garment tell its colour, and the other way.

    Large models have encoders that were trained on text before; without it neither
    the look at a word nor what is found there is of use before the other is.
    """
    head = nn.Linear(TEXT["d_model"], len(TOKENIZER))
    learned = [*text.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(learned, lr=2e-3)
    for step in range(steps):
        prompts = [compose(wardrobe, (seed, 1, step, n)).prompt for n in range(128)]
        numbers = token_numbers(prompts)
        told = head(text(numbers)[0])
        partner, is_word = partners(numbers)
        loss = nn.functional.cross_entropy(told[is_word], partner[is_word])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(json.dumps({"text loss": round(float(loss.detach()), 4)}), flush=True)


def partners(numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For every colour the garment behind it, for every garment the colour before."""
    known = TOKENIZER.get_vocab()
    colours, names = (
        torch.isin(numbers, torch.tensor([known[word] for word in words]))
        for words in (COLOURS, NAMES)
    )
    after, before = numbers.roll(-1, 1), numbers.roll(1, 1)
    return torch.where(colours, after, before), colours | names


class Training:
    """Weights, their average, optimizers, and the file that keeps them."""

    def __init__(self, args: argparse.Namespace) -> None:
        torch.manual_seed(args.seed)
        self.args, self.step = args, 0
        self.model = Words()
        self.average = copy.deepcopy(self.model).requires_grad_(requires_grad=False)
        self.optimizers = _optimizers(self.model, args.rate)
        self.file = args.out / "training.pt"

    def kept(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        numbered = {f"optimizer{n}": o for n, o in enumerate(self.optimizers)}
        return {"model": self.model, "average": self.average, **numbered}

    def save(self) -> None:
        temporary = self.file.with_suffix(".part")
        states = {name: part.state_dict() for name, part in self.kept().items()}
        torch.save({"step": self.step, **states}, temporary)
        temporary.replace(self.file)

    def resume(self) -> None:
        states = torch.load(self.file)
        self.step = states["step"]
        for name, part in self.kept().items():
            part.load_state_dict(states[name])

    def advance(self, *batch: Any) -> np.ndarray:
        """One step; returns the errors."""
        generator = torch.Generator().manual_seed(self.args.seed * 10**6 + self.step)
        left = (self.args.steps - self.step) / (self.args.steps - WARM_UP)
        for group in itertools.chain(*(o.param_groups for o in self.optimizers)):
            group["lr"] = self.args.rate * min((self.step + 1) / WARM_UP, left)
        errors = loss_of(self.model, *batch, generator)
        (errors["light"] + errors["colour"] + errors["seen"]).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        share = min(AVERAGING, self.step / (self.step + 10))
        for old, new in zip(
            self.average.parameters(), self.model.parameters(), strict=True
        ):
            old.lerp_(new.detach(), 1 - share)
        return np.array([float(value.detach()) for value in errors.values()])


def _optimizers(model: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    inner = {
        name
        for name, p in model.named_parameters()
        if p.ndim == 2 and "blocks" in name and "norm" not in name
    }
    named = dict(model.named_parameters())
    return [
        torch.optim.Muon(
            [named[name] for name in sorted(inner)],
            lr=rate,
            weight_decay=0.01,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(
            [p for name, p in named.items() if name not in inner],
            lr=rate,
            betas=(0.9, 0.98),
            weight_decay=0.01,
        ),
    ]


def train(args: argparse.Namespace) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    wardrobe, space = Wardrobe(args.data, "train"), PixelAutoencoder()
    training = Training(args)
    if training.file.exists():
        training.resume()
    else:
        teach_text(training.model.learned["text"], wardrobe, args.seed)
        training.average.load_state_dict(training.model.state_dict())
    judge, sums, began = load_judge(args.judge), np.zeros(4), time.process_time()
    while training.step < args.steps:
        pixels, prompts = batch_of(wardrobe, args.seed, training.step)
        latents = packed(space.encode(pixels).latent_dist.mode())
        sums += training.advance(latents, seen_by(judge, pixels), prompts)
        if training.step % 50 == 0:
            used = time.process_time() - began
            record = {"step": training.step, "cpu_s": round(used)}
            named = zip(ERRORS, (sums / 50).round(5).tolist(), strict=True)
            print(json.dumps(record | dict(named)), flush=True)
            sums[:] = 0
        if training.step % 250 == 0:
            training.save()
    assemble(training.average.learned).save_pretrained(args.out / "garments-mmdit")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--out", type=Path, default=Path("runs/words"))
    parser.add_argument("--judge", type=Path, default=JUDGE)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    train(given)
