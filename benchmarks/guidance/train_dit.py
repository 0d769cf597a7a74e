"""Train a small unconditional diffusion transformer on Fashion-MNIST.

Straight path x_t = (1 - t) x + t noise, velocity target noise - x, logit-normal t,
AdamW with warm-up and a cosine to zero, exponentially averaged weights. The same seed
and number of steps give the same weights, also after an interruption.

    python benchmarks/guidance/train_dit.py --data FOLDER --out fashion_dit.safetensors
"""

import argparse
import copy
import json
import math
import time
from pathlib import Path

import torch
from data import DEFAULT_FOLDER, load
from safetensors.torch import load_file, save_file

from attnchain.testing.models.diffusion import build

CONFIG = {
    "num_attention_heads": 4,
    "attention_head_dim": 16,
    "in_channels": 1,
    "out_channels": 1,
    "num_layers": 4,
    "sample_size": 28,
    "patch_size": 4,
    "num_embeds_ada_norm": 1,
}
WARM_UP = 200
AVERAGING = 0.999


def build_model() -> torch.nn.Module:
    """Always in evaluation mode: the only dropout is that of the class label."""
    return build("DiTTransformer2DModel", **CONFIG).eval()


def load_model(path: Path) -> torch.nn.Module:
    model = build_model()
    model.load_state_dict(load_file(path))
    return model


def learning_rate(step: int, steps: int, peak: float) -> float:
    if step < WARM_UP:
        return peak * (step + 1) / WARM_UP
    done = (step - WARM_UP) / max(1, steps - WARM_UP)
    return peak * 0.5 * (1 + math.cos(math.pi * done))


def loss_of(model, pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    rows = len(pictures)
    t = torch.sigmoid(torch.randn(rows, generator=generator))
    noise = torch.randn(pictures.shape, generator=generator)
    amount = t[:, None, None, None]
    noisy = (1 - amount) * pictures + amount * noise
    label = torch.zeros(rows, dtype=torch.long)
    velocity = model(noisy, timestep=1000 * t, class_labels=label).sample
    return (velocity - (noise - pictures)).square().mean()


def save_state(path: Path, step: int, parts: dict) -> None:
    temporary = path.with_suffix(".part")
    torch.save(
        {"step": step, **{k: v.state_dict() for k, v in parts.items()}}, temporary
    )
    temporary.replace(path)


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    pictures, _ = load(args.data, "train")
    model = load_model(args.start) if args.start else build_model()
    average = copy.deepcopy(model).requires_grad_(requires_grad=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.rate, weight_decay=0.01)
    parts = {"model": model, "average": average, "optimizer": optimizer}
    resume = args.out.with_suffix(".resume.pt")
    first = 0
    if resume.exists():
        state = torch.load(resume, weights_only=True)
        first = state["step"]
        for name, part in parts.items():
            part.load_state_dict(state[name])
    total, began = 0.0, time.perf_counter()
    for step in range(first, args.steps):
        generator = torch.Generator().manual_seed(args.seed * 10_000_019 + step)
        rows = torch.randint(len(pictures), (args.batch,), generator=generator)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.rate)
        loss = loss_of(model, pictures[rows], generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        keep = min(AVERAGING, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(average.parameters()), list(model.parameters()), 1 - keep
            )
        total += loss.item()
        if (step + 1) % args.report == 0:
            seconds = (time.perf_counter() - began) / (step + 1 - first)
            print(
                f"{step + 1} loss {total / args.report:.4f} {seconds:.3f} s a step",
                flush=True,
            )
            total = 0.0
            save_state(resume, step + 1, parts)
    save_file(
        average.state_dict(),
        args.out,
        metadata={
            "config": json.dumps(CONFIG),
            "seed": str(args.seed),
            "steps": str(args.steps),
            "batch": str(args.batch),
        },
    )
    resume.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--out", type=Path, default=Path("fashion_dit.safetensors"))
    parser.add_argument("--start", type=Path, help="weights to train on from")
    parser.add_argument("--steps", type=int, default=4_500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=int, default=500)
    torch.set_num_threads(1)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
