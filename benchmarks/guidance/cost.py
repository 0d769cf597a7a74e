"""What guidance costs: one denoising step plain, with SAG and with TokenRank.

    python benchmarks/guidance/cost.py --model fashion_dit.safetensors

The methods are timed in turn, in processor time, and the least of all rounds counts,
because a shared machine changes its pace; say whether it was shared. A UNet in the
shape of Stable Diffusion's, a quarter as wide, with random weights is timed too, and
salience alone for a block of 4,096 tokens, the largest of Stable Diffusion.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from train_dit import build_model, load_model

from attnchain.guidance import AttentionGuidance, Salience, guide
from attnchain.guidance.reader import BlockReader
from attnchain.operators import AttentionTransition
from attnchain.testing.models.diffusion import build

METHODS = {
    "plain": None,
    "SAG (column sum)": AttentionGuidance.sag(),
    "TokenRank": AttentionGuidance(),
    "TokenRank, outgoing": AttentionGuidance(Salience(direction="outgoing")),
    "TokenRank, lambda_2 heads": AttentionGuidance(Salience(heads="lambda2")),
}


def small_dit(path: Path | None, batch: int):
    model = load_model(path) if path else build_model()
    scheduler = build("FlowMatchEulerDiscreteScheduler")
    scheduler.set_timesteps(4)
    time_step = scheduler.timesteps[1].expand(batch)
    label = torch.zeros(batch, dtype=torch.long)
    return (
        model,
        scheduler,
        lambda: model(
            torch.randn(batch, 1, 28, 28), timestep=time_step, class_labels=label
        ),
    )


def quarter_unet(batch: int):
    """64 x 64 latents, 8 x 8 = 64 tokens in the middle, as in Stable Diffusion 1."""
    torch.manual_seed(0)
    model = build(
        "UNet2DConditionModel",
        sample_size=64,
        cross_attention_dim=192,
        block_out_channels=(80, 160, 320, 320),
        norm_num_groups=16,
    )
    scheduler = build("DDIMScheduler", beta_schedule="scaled_linear")
    scheduler.set_timesteps(4)
    text = torch.randn(batch, 77, 192)
    return (
        model.eval(),
        scheduler,
        lambda: model(
            torch.randn(batch, 4, 64, 64),
            scheduler.timesteps[1],
            encoder_hidden_states=text,
        ),
    )


@torch.no_grad()
def measure(model, scheduler, step, *, rounds: int) -> dict[str, list[float]]:
    """Seconds of one step by method; the first round of each is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    for turn in range(rounds + 1):
        for name, guidance in METHODS.items():
            torch.manual_seed(turn)
            if guidance is None:
                spent = clocked(step)
            else:
                with guide(model, guidance, scheduler=scheduler):
                    step()
                    spent = clocked(step)
            if turn:
                seconds[name].append(spent)
    return seconds


def clocked(step) -> float:
    began = time.process_time()
    step()
    return time.process_time() - began


@torch.no_grad()
def salience_alone(model, step, *, rounds: int = 20) -> dict[str, float]:
    """Least seconds of finding the salient tokens, from queries and keys."""
    with BlockReader(model).reading("all") as reading:
        step()
    return least_of(reading.attention(slice(None)), METHODS, rounds=rounds)


def least_of(attention, names, *, rounds: int) -> dict[str, float]:
    return {
        name: min(
            clocked(lambda kind=METHODS[name].salience: kind.of(attention))
            for _ in range(rounds)
        )
        for name in names
        if METHODS[name] is not None
    }


def large_block(*, rounds: int = 3) -> dict[str, float]:
    """Seconds for a block of 64 x 64 tokens and 8 heads of width 40, 1 picture."""
    torch.manual_seed(0)
    q, k = 2 * torch.randn(2, 1, 8, 4096, 40)
    names = ["SAG (column sum)", "TokenRank"]
    return least_of(AttentionTransition(q, k), names, rounds=rounds)


def report(title: str, seconds: dict[str, list[float]], alone: dict) -> None:
    print(f"{title}\n")
    print("| step | ms, least | ms, median | times plain | salience alone, ms |")
    print("|---|---|---|---|---|")
    for name, values in seconds.items():
        least = min(values)
        print(
            f"| {name} | {1e3 * least:.1f} | {1e3 * statistics.median(values):.1f} | "
            f"{least / min(seconds['plain']):.2f} | {1e3 * alone.get(name, 0):.2f} |"
        )
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pictures = f"{args.batch} pictures"
    cases = {
        f"Fashion-MNIST transformer, {pictures}": small_dit(args.model, args.batch),
        "UNet like Stable Diffusion 1, a quarter as wide, 1 picture": quarter_unet(1),
    }
    for title, (model, scheduler, step) in cases.items():
        seconds = measure(model, scheduler, step, rounds=args.rounds)
        report(title, seconds, salience_alone(model, step))
    for name, spent in large_block().items():
        print(f"4,096 tokens, 8 heads, salience alone, {name}: {1e3 * spent:.0f} ms")


if __name__ == "__main__":
    main()
