"""Unconditional Stable Diffusion with and without guidance: FID, KID and IS.

Runs where the weights are; nothing is fetched. One command makes the pictures (PNG,
each with its settings and seed; an interrupted run resumes) and scores them:

    python benchmarks/guidance/sd15.py --model stable-diffusion-v1-5 --out runs \
        --reference real-pictures --features inception-2015-12-05.pt \
        --methods none sag rank --count 5000 --device cuda --dtype float16

FEATURES is the Inception network of the FID in TorchScript, which resizes by itself.
It is called with uint8 pictures (n, 3, h, w): (pictures, return_features=True) gives
features, and (pictures, no_output_bias=True) class probabilities. Real pictures are
cropped to their middle square and brought to the size of the generated ones before.

Besides the methods there are two controls: all blurs everything, and shuffled takes
TokenRank's mask with its tokens in random order.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from metrics import (
    frechet_distance,
    inception_score,
    inception_score_of_splits,
    kernel_distance,
    moments,
)
from outputs import fill_folder
from PIL import Image
from sample import shuffled

import attnchain
from attnchain.guidance import AttentionGuidance, Salience, guide
from attnchain.optional import require
from attnchain.testing.models.shim import importable_torchvision

SALIENCE = {
    "sag": Salience("column_sum"),
    "rank": Salience("token_rank"),
    "rank-outgoing": Salience("token_rank", direction="outgoing"),
    "rank-lambda2": Salience("token_rank", heads="lambda2"),
    "bounces": Salience("bounces"),
    "all": Salience("column_sum"),
    "shuffled": Salience("token_rank"),
}
PICTURES = {".png", ".jpg", ".jpeg"}


class Shuffled(AttentionGuidance):
    """A control: the mask keeps its area, and loses its places by picture's seed."""

    def start_from(self, seeds: list[int]) -> None:
        self.draws = [torch.Generator().manual_seed(seed) for seed in seeds]

    def mask(self, attention, grid):
        mask = super().mask(attention, grid)
        tokens = mask[0].numel()
        draws = [torch.rand(tokens, generator=draw) for draw in self.draws]
        return shuffled(mask, torch.stack(draws))


def guidance_of(method: str, scale: float) -> AttentionGuidance | None:
    if method == "none":
        return None
    kind = Shuffled if method == "shuffled" else AttentionGuidance
    threshold = -1.0 if method == "all" else 1.0
    return kind(SALIENCE[method], scale=scale, threshold=threshold)


def size_of(pipeline, args) -> int:
    """Width and height of the pictures."""
    return args.size or pipeline.unet.config.sample_size * pipeline.vae_scale_factor


def settings_of(pipeline, args) -> dict:
    """What changes the pictures, besides the guidance."""
    diffusers = require("diffusers", extra="diffusers", feature="this benchmark")
    return {
        "model": args.model,
        "dtype": args.dtype,
        "scheduler": type(pipeline.scheduler).__name__,
        "size": size_of(pipeline, args),
        "num_inference_steps": args.steps,
        "guidance_scale": args.guidance_scale,
        "versions": {
            "attnchain": attnchain.__version__,
            "diffusers": diffusers.__version__,
            "torch": str(torch.__version__),
        },
    }


def make_pictures(pipeline, method: str, args) -> Path:
    """Fills a folder; every picture has its own seed, so batches do not matter."""
    guidance = guidance_of(method, args.scale)
    folder = args.out / (method if guidance is None else f"{method}-s{args.scale:g}")
    size = size_of(pipeline, args)
    call = {"num_inference_steps": args.steps, "guidance_scale": args.guidance_scale}
    call |= {"height": size, "width": size}

    def draw(seeds):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        prompts = [""] * len(seeds)
        if guidance is None:
            return pipeline(prompts, generator=generators, **call).images
        if isinstance(guidance, Shuffled):
            guidance.start_from(seeds)
        with guide(pipeline, guidance):
            return pipeline(prompts, generator=generators, **call).images

    def make(seeds):
        began = time.perf_counter()
        pictures = draw(seeds)
        seconds = time.perf_counter() - began
        done = seeds[-1] - args.seed + 1
        print(f"{folder.name}: {done} of {args.count}, {seconds:.1f} s", flush=True)
        return pictures

    described = None if guidance is None else guidance.describe()
    fill_folder(
        folder,
        make,
        count=args.count,
        batch=args.batch,
        seed=args.seed,
        settings=settings_of(pipeline, args)
        | {"method": method, "guidance": described},
    )
    return folder


def pixels_of(file: Path, size: int) -> np.ndarray:
    """The middle square of a picture, brought to a size; generated ones stay."""
    with Image.open(file) as picture:
        side = min(picture.size)
        left, top = ((length - side) // 2 for length in picture.size)
        square = picture.convert("RGB").crop((left, top, left + side, top + side))
    return np.asarray(square.resize((size, size), Image.Resampling.LANCZOS))


@torch.no_grad()
def describe(network, files: list[Path], size: int, args) -> tuple:
    """Features and class probabilities of picture files."""
    features, probabilities = [], []
    for first in range(0, len(files), args.batch):
        pixels = [pixels_of(file, size) for file in files[first : first + args.batch]]
        batch = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).to(args.device)
        features.append(network(batch, return_features=True).cpu().numpy())
        probabilities.append(network(batch, no_output_bias=True).cpu().numpy())
    return np.concatenate(features), np.concatenate(probabilities)


def score(real: np.ndarray, features: np.ndarray, probabilities: np.ndarray) -> dict:
    mean, deviation = inception_score_of_splits(probabilities)
    return {
        "pictures": len(features),
        "real pictures": len(real),
        "FID": frechet_distance(*moments(real), *moments(features)),
        "KID": 1e3 * kernel_distance(real, features),
        "IS": inception_score(probabilities),
        "IS of 10 splits": mean,
        "IS of 10 splits, deviation": deviation,
    }


def load_pipeline(args):
    importable_torchvision()
    diffusers = require("diffusers", extra="diffusers", feature="this benchmark")
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
        args.model,
        torch_dtype=getattr(torch, args.dtype),
        safety_checker=None,
        local_files_only=True,
    )
    schedule = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.scheduler = schedule
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(args.device)


def run(pipeline, args) -> dict[str, dict[str, float]]:
    """Makes and scores the pictures of all methods; keeps the scores of others."""
    network = None
    if args.features is not None:
        network = torch.jit.load(args.features, map_location=args.device).eval()
    folders = [make_pictures(pipeline, method, args) for method in args.methods]
    if network is None:
        return {}
    size = size_of(pipeline, args)
    real, _ = describe(network, pictures_in(args.reference), size, args)
    scores = {}
    for folder in folders:
        files = sorted(folder.glob("*.png"))[: args.count]
        scores[folder.name] = score(real, *describe(network, files, size, args))
    path = args.out / "scores.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(kept | scores, indent=1, sort_keys=True))
    return scores


def pictures_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in PICTURES)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a local folder of weights")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--methods",
        nargs="+",
        default=["none", "sag", "rank"],
        choices=["none", *SALIENCE],
    )
    parser.add_argument("--scale", type=float, default=0.75)
    parser.add_argument("--guidance-scale", type=float, default=1.0)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--size", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--dtype", default="float32", choices=["float32", "float16", "bfloat16"]
    )
    parser.add_argument("--reference", type=Path, help="folder of real pictures")
    parser.add_argument("--features", type=Path, help="TorchScript file")
    args = parser.parse_args(given)
    check(parser, args)
    return args


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Ends with a message before hours are spent on pictures."""
    try:
        torch.empty(0, device=args.device)
    except (RuntimeError, AssertionError) as error:
        parser.error(f"--device {args.device} cannot be used here: {error}")
    if (args.features is None) != (args.reference is None):
        parser.error("--features and --reference belong together")
    if args.features is None:
        return
    if not args.features.is_file():
        parser.error(f"--features {args.features} is no file")
    if not pictures_in(args.reference):
        parser.error(f"--reference {args.reference} holds no .png or .jpg pictures")


def main() -> None:
    args = arguments()
    for method, scores in run(load_pipeline(args), args).items():
        print(method, json.dumps(scores))


if __name__ == "__main__":
    main()
