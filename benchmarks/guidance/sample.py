"""Sample the trained model with and without guidance; an interrupted run resumes.

Pictures go to OUT/CELL/seedS/NNN.npz in chunks, each from its own seed, so that all
cells start from the same noise and a finished chunk is never made again.

    python benchmarks/guidance/sample.py --model fashion_dit.safetensors --out runs \
        --cells none sag-s1 rank-s1 --seeds 0 1 2 --count 5000

A cell is named METHOD[-OPTION...]: methods none, sag, rank, bounce, all (blurs
everything) and shuffled (TokenRank's mask, its tokens in random order); options sN
scale, oN threshold, gN blur, bN block, nN bounces, out (outgoing), lam (lambda_2
weights), and fN-N for the first and last fraction of steps in percent.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from train_dit import load_model

from attnchain.guidance import AttentionGuidance, Salience, guide
from attnchain.testing.models.diffusion import build

CHUNK = 250
KINDS = {"sag": "column_sum", "bounce": "bounces"}


class Shuffled(AttentionGuidance):
    """A control: the mask keeps its area and loses its places."""

    def mask(self, attention, grid):
        mask = super().mask(attention, grid)
        return shuffled(mask, torch.rand(mask.flatten(1).shape))


def shuffled(mask: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """A mask with its tokens in the order of random numbers."""
    order = draws.argsort(-1).to(mask.device)
    return mask.flatten(1).gather(1, order).view(mask.shape)


def guidance_of(cell: str) -> AttentionGuidance | None:
    method, *options = cell.split("-")
    if method == "none":
        return None
    salience = Salience(KINDS.get(method, "token_rank"))
    kind = Shuffled if method == "shuffled" else AttentionGuidance
    guidance = kind(salience=salience, threshold=-1.0 if method == "all" else 1.0)
    for option in options:
        guidance = _with_option(guidance, option)
    return guidance


def _with_option(guidance: AttentionGuidance, option: str) -> AttentionGuidance:
    salience = guidance.salience
    words = {"out": {"direction": "outgoing"}, "lam": {"heads": "lambda2"}}
    if option in words:
        return replace(guidance, salience=replace(salience, **words[option]))
    key, value = option[0], option[1:]
    if key == "n":
        return replace(guidance, salience=replace(salience, bounces=int(value)))
    if key == "b":
        return replace(guidance, block=f"transformer_blocks.{value}.attn1")
    if key == "f":
        start, stop = (int(part) / 100 for part in value.split("to"))
        return replace(guidance, start=start, stop=stop)
    names = {"s": "scale", "o": "threshold", "g": "blur_sigma"}
    return replace(guidance, **{names[key]: float(value)})


@torch.no_grad()
def sample(model, scheduler, guidance, *, noise: torch.Tensor, steps: int) -> tuple:
    """Pictures in [-1, 1] and the share of tokens that were blurred."""
    scheduler.set_timesteps(steps)
    label = torch.zeros(len(noise), dtype=torch.long)

    def run() -> torch.Tensor:
        x = noise
        for t in scheduler.timesteps:
            when = t.expand(len(x))
            velocity = model(x, timestep=when, class_labels=label).sample
            x = scheduler.step(velocity, t, x).prev_sample
        return x

    if guidance is None:
        return run(), 0.0
    with guide(model, guidance, scheduler=scheduler) as guided:
        pictures = run()
    return pictures, float(np.mean(guided.masked or [0.0]))


def make_chunk(path: Path, args, cell: str, seed: int, chunk: int) -> float:
    generator = torch.Generator().manual_seed(1_000_003 * seed + chunk)
    torch.manual_seed(1_000_003 * seed + chunk)
    noise = torch.randn(CHUNK, 1, 28, 28, generator=generator)
    guidance = guidance_of(cell)
    began = time.perf_counter()
    pictures, masked = sample(
        args.network, args.scheduler, guidance, noise=noise, steps=args.steps
    )
    seconds = time.perf_counter() - began
    pixels = pictures.add(1).mul(127.5).round().clamp(0, 255).byte().numpy()
    settings = {} if guidance is None else guidance.describe()
    settings |= {"cell": cell, "seed": seed, "chunk": chunk}
    settings |= {"steps": args.steps, "shift": args.shift, "model": args.model.name}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part.npz")
    np.savez_compressed(
        temporary,
        pixels=pixels[:, 0],
        masked=masked,
        seconds=seconds,
        settings=json.dumps(settings),
    )
    temporary.replace(path)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cells", nargs="+", required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--shift", type=float, default=3.0)
    torch.set_num_threads(1)
    args = parser.parse_args()
    args.network = load_model(args.model)
    args.scheduler = build("FlowMatchEulerDiscreteScheduler", shift=args.shift)
    for seed in args.seeds:
        for cell in args.cells:
            spent = 0.0
            for chunk in range(-(-args.count // CHUNK)):
                path = args.out / cell / f"seed{seed}" / f"{chunk:03d}.npz"
                if not path.exists():
                    spent += make_chunk(path, args, cell, seed, chunk)
            print(f"seed {seed} {cell}: {spent:.0f} s", flush=True)


if __name__ == "__main__":
    main()
