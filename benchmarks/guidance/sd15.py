"""Unconditional Stable Diffusion with and without guidance: FID, KID and IS.

Runs where the weights are; nothing is fetched. One command makes the pictures (PNG,
each with its settings and seed; an interrupted run resumes) and scores them:

    python benchmarks/guidance/sd15.py --model stable-diffusion-v1-5 --out runs \
        --reference FOLDER_OF_REAL_PICTURES --features inception-2015-12-05.pt \
        --methods none sag rank --count 5000 --device cuda

FEATURES is the Inception network of the FID in TorchScript, called with uint8
pictures (n, 3, h, w): (pictures, return_features=True) gives features, and
(pictures, no_output_bias=True) class probabilities.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from metrics import frechet_distance, inception_score, kernel_distance, moments
from PIL import Image

from attnchain.optional import require
from attnchain.tasks.guidance import AttentionGuidance, Salience, guide
from attnchain.tasks.guidance.outputs import fill_folder
from attnchain.testing.models.shim import importable_torchvision

SALIENCE = {
    "sag": Salience("column_sum"),
    "rank": Salience("token_rank"),
    "rank-outgoing": Salience("token_rank", direction="outgoing"),
    "rank-lambda2": Salience("token_rank", heads="lambda2"),
    "bounces": Salience("bounces"),
}


def guidance_of(method: str, scale: float) -> AttentionGuidance | None:
    if method == "none":
        return None
    return AttentionGuidance(salience=SALIENCE[method], scale=scale)


def make_pictures(pipeline, method: str, args) -> Path:
    """Fills a folder; every picture has its own seed, so batches do not matter."""
    guidance = guidance_of(method, args.scale)
    call = {"num_inference_steps": args.steps, "guidance_scale": args.guidance_scale}
    if args.size:
        call |= {"height": args.size, "width": args.size}

    def make(seeds):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        prompts = [""] * len(seeds)
        if guidance is None:
            return pipeline(prompts, generator=generators, **call).images
        with guide(pipeline, guidance):
            return pipeline(prompts, generator=generators, **call).images

    settings = call | {"model": args.model, "method": method}
    settings["guidance"] = None if guidance is None else guidance.describe()
    folder = args.out / (method if guidance is None else f"{method}-s{args.scale:g}")
    fill_folder(
        folder,
        make,
        count=args.count,
        batch=args.batch,
        seed=args.seed,
        settings=settings,
    )
    return folder


@torch.no_grad()
def describe(network, files: list[Path], args) -> tuple[np.ndarray, np.ndarray]:
    """Features and class probabilities of picture files."""
    features, probabilities = [], []
    for first in range(0, len(files), args.batch):
        pixels = [
            np.asarray(Image.open(file).convert("RGB").resize((299, 299)))
            for file in files[first : first + args.batch]
        ]
        batch = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).to(args.device)
        features.append(network(batch, return_features=True).cpu().numpy())
        probabilities.append(network(batch, no_output_bias=True).cpu().numpy())
    return np.concatenate(features), np.concatenate(probabilities)


def score(network, folder: Path, real: np.ndarray, args) -> dict[str, float]:
    files = sorted(folder.glob("*.png"))[: args.count]
    features, probabilities = describe(network, files, args)
    block = min(1000, len(real), len(features))
    return {
        "pictures": len(files),
        "FID": frechet_distance(*moments(real), *moments(features)),
        "KID": 1e3 * kernel_distance(real, features, block=block),
        "IS": inception_score(probabilities),
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
    """Makes and scores the pictures of all methods."""
    folders = {method: make_pictures(pipeline, method, args) for method in args.methods}
    if args.features is None:
        return {}
    network = torch.jit.load(args.features, map_location=args.device).eval()
    files = sorted(
        file
        for file in args.reference.rglob("*")
        if file.suffix.lower() in {".png", ".jpg", ".jpeg"}
    )
    real, _ = describe(network, files, args)
    scores = {
        method: score(network, folder, real, args) for method, folder in folders.items()
    }
    (args.out / "scores.json").write_text(json.dumps(scores, indent=1))
    return scores


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
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--reference", type=Path, help="folder of real pictures")
    parser.add_argument("--features", type=Path, help="TorchScript file")
    args = parser.parse_args(given)
    if (args.features is None) != (args.reference is None):
        parser.error("--features and --reference belong together")
    return args


def main() -> None:
    args = arguments()
    for method, scores in run(load_pipeline(args), args).items():
        print(method, json.dumps(scores))


if __name__ == "__main__":
    main()
