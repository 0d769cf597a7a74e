"""Released text-to-image models with and without guidance: FID, KID and IS.

Runs where the weights are; nothing is fetched. One command makes the pictures (PNG,
each with its settings and seed; an interrupted run resumes) and scores them:

    python benchmarks/guidance/released.py --model stable-diffusion-v1-5 --out runs \
        --reference real-pictures --features inception-2015-12-05.pt \
        --methods none sag rank --count 5000 --device cuda --dtype float16

Stable Diffusion 1.5 samples with DDIM, all others (SD 3.5, FLUX.1, PixArt, Lumina 2)
with their own scheduler; FLUX.1-schnell wants --steps 4. With --engine ray --workers N
every GPU has the model once and the pictures are shared; those that are there stay.

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
from collections.abc import Iterator
from contextlib import contextmanager
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
from attnchain.folder import ray_cluster
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
    sample = getattr(pipeline, "default_sample_size", None)
    if sample is None:
        denoiser = getattr(pipeline, "transformer", None) or pipeline.unet
        sample = denoiser.config.sample_size
    return args.size or sample * pipeline.vae_scale_factor


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


class Worker:
    """Draws pictures; one for each GPU, with a model of its own."""

    def __init__(self, args, pipeline=None) -> None:
        self.args, self.pipeline = args, pipeline or load_pipeline(args)

    def settings(self) -> dict:
        return settings_of(self.pipeline, self.args)

    def draw(self, method: str, seeds: list[int]) -> list[Image.Image]:
        """Every picture has its own seed, so batches do not matter."""
        args, guidance = self.args, guidance_of(method, self.args.scale)
        size = size_of(self.pipeline, args)
        options = {
            "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
            "num_inference_steps": args.steps,
            "guidance_scale": args.guidance_scale,
            "height": size,
            "width": size,
        }
        prompts = [""] * len(seeds)
        if guidance is None:
            return self.pipeline(prompts, **options).images
        if isinstance(guidance, Shuffled):
            guidance.start_from(seeds)
        with guide(self.pipeline, guidance):
            return self.pipeline(prompts, **options).images


@contextmanager
def workers_of(args) -> Iterator["Worker | Many"]:
    """What draws: this process, or the workers of a Ray cluster."""
    if args.engine == "local":
        yield Worker(args)
        return
    with ray_cluster(args.address) as ray:
        yield Many(ray, args)


class Many:
    """Workers of a Ray cluster, and how pictures are shared among them."""

    def __init__(self, ray, args) -> None:
        util = require("ray.util", extra="ray", feature="--engine ray")
        gpus = 0 if args.device == "cpu" else 1
        actor = ray.remote(num_gpus=gpus, max_restarts=-1, max_task_retries=1)(Worker)
        workers = [actor.remote(args) for _ in range(args.workers)]
        self.args, self.pool = args, util.ActorPool(workers)
        self.known = ray.get(workers[0].settings.remote())

    def settings(self) -> dict:
        return self.known

    def draw(self, method: str, seeds: list[int]) -> list[Image.Image]:
        step = self.args.batch
        parts = [seeds[k : k + step] for k in range(0, len(seeds), step)]
        made = self.pool.map(lambda actor, part: actor.draw.remote(method, part), parts)
        return [picture for pictures in made for picture in pictures]


def make_pictures(workers, method: str, args) -> Path:
    """Fills a folder with the pictures that it still lacks."""
    guidance = guidance_of(method, args.scale)
    folder = args.out / (method if guidance is None else f"{method}-s{args.scale:g}")

    def make(seeds):
        began = time.perf_counter()
        pictures = workers.draw(method, seeds)
        seconds = time.perf_counter() - began
        done = seeds[-1] - args.seed + 1
        print(f"{folder.name}: {done} of {args.count}, {seconds:.1f} s", flush=True)
        return pictures

    described = None if guidance is None else guidance.describe()
    fill_folder(
        folder,
        make,
        count=args.count,
        batch=args.batch * args.workers,
        seed=args.seed,
        settings=workers.settings() | {"method": method, "guidance": described},
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
    pipeline = diffusers.DiffusionPipeline.from_pretrained(
        args.model, torch_dtype=getattr(torch, args.dtype), local_files_only=True
    )
    if type(pipeline).__name__ == "StableDiffusionPipeline":
        pipeline.safety_checker = None
        schedule = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config)
        pipeline.scheduler = schedule
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(args.device)


def run(workers, args) -> dict[str, dict[str, float]]:
    """Makes and scores the pictures of all methods; keeps the scores of others."""
    network = None
    if args.features is not None:
        network = torch.jit.load(args.features, map_location=args.device).eval()
    folders = [make_pictures(workers, method, args) for method in args.methods]
    if network is None:
        return {}
    size = workers.settings()["size"]
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
    parser.add_argument("--engine", default="local", choices=["local", "ray"])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--address", help="of a Ray cluster; else one on this machine")
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
    if args.engine == "local" and (args.workers != 1 or args.address):
        parser.error("--workers and --address go with --engine ray")
    if args.workers < 1:
        parser.error(f"--workers must be at least 1, but is {args.workers}")
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
    with workers_of(args) as workers:
        for method, scores in run(workers, args).items():
            print(method, json.dumps(scores))


if __name__ == "__main__":
    main()
