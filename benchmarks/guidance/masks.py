"""How the masks of SAG and TokenRank differ, block by block, along plain sampling.

    python benchmarks/guidance/masks.py --model fashion_dit.safetensors --out masks.png

Prints, for every block, the share of tokens over the threshold, how much the two masks
overlap, how far the salience spreads, lambda_2, and the share of each mask that lies on
the garment. The picture shows, for some samples at the middle step: the clean picture
that is predicted, and both masks of the block that is read.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from outputs import save_picture
from PIL import Image
from train_dit import load_model

from attnchain.guidance import NoiseLevel, Salience
from attnchain.guidance.reader import BlockReader
from attnchain.markov import second_eigenvalue
from attnchain.testing.models.diffusion import build

KINDS = {
    "sag": Salience("column_sum"),
    "rank": Salience(),
    "rank-out": Salience(direction="outgoing"),
}


@torch.no_grad()
def follow(model, scheduler, *, pictures: int, block: int) -> tuple[dict, dict]:
    """Statistics of one block over all steps, and what it looked like half-way."""
    reader = BlockReader(model, f"transformer_blocks.{block}.attn1")
    x = torch.randn(pictures, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    label = torch.zeros(pictures, dtype=torch.long)
    seen, middle = defaultdict(list), {}
    for step, t in enumerate(scheduler.timesteps):
        with reader.reading("all") as reading:
            velocity = model(x, timestep=t.expand(pictures), class_labels=label).sample
        attention = reading.attention(slice(None))
        clean, _ = NoiseLevel.of(scheduler, float(t)).split(x, velocity)
        garment = torch.nn.functional.avg_pool2d((clean > -0.9).float(), 4) > 0.5
        garment = garment.flatten(1)
        values = {name: kind.of(attention) for name, kind in KINDS.items()}
        masks = {name: value > 1 for name, value in values.items()}
        for name, mask in masks.items():
            both, either = (mask & masks["sag"]).sum(), (mask | masks["sag"]).sum()
            seen[f"{name} blurred"].append(float(mask.float().mean()))
            seen[f"{name} overlap with sag"].append(float(both / either))
            seen[f"{name} deviation"].append(float(values[name].std(-1).mean()))
            on = (mask & garment).sum() / mask.sum().clamp_min(1)
            seen[f"{name} on garment"].append(float(on))
        seen["garment"].append(float(garment.float().mean()))
        moduli = second_eigenvalue(attention[:8]).modulus
        seen["lambda_2"].append(float(moduli.mean()))
        if step == len(scheduler.timesteps) // 2:
            middle = {"clean": clean, **masks}
        x = scheduler.step(velocity, t, x).prev_sample
    return {name: float(np.mean(values)) for name, values in seen.items()}, middle


def drawn(middle: dict, columns: int = 12) -> np.ndarray:
    rows = [middle["clean"][:columns, 0].add(1).mul(127.5).clamp(0, 255)]
    for name in KINDS:
        mask = middle[name][:columns].view(-1, 7, 7).float() * 255
        rows.append(mask.repeat_interleave(4, 1).repeat_interleave(4, 2))
    return torch.cat([torch.cat(list(row), dim=1) for row in rows]).byte().numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(args.model)
    scheduler = build("FlowMatchEulerDiscreteScheduler", shift=3.0)
    for block in range(len(model.transformer_blocks)):
        scheduler.set_timesteps(12)
        seen, middle = follow(model, scheduler, pictures=args.pictures, block=block)
        print(f"block {block}: " + ", ".join(f"{k} {v:.2f}" for k, v in seen.items()))
        pixels = drawn(middle).repeat(2, 0).repeat(2, 1)
        path = args.out.with_stem(f"{args.out.stem}-block{block}")
        save_picture(Image.fromarray(pixels), path, {"block": block, "step": 6})


if __name__ == "__main__":
    main()
