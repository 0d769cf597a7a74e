"""Time of a forward pass with capture of queries and keys, against the plain pass.

`python benchmarks/capture_overhead.py [--rounds 7]`: CPU time, so that one thread may
be measured on a busy machine. Both passes alternate in one run; times are the best,
the ratio is theirs, and the median of the pairs' ratios stands beside it. The captured
pass asks each record for its live tokens. Goal: 1.15. Models have random weights and
real sizes; nothing is downloaded.
"""

import argparse
import statistics
import time

import torch

from attnchain.capturing import capture
from attnchain.testing.models import diffusion, importable_torchvision

importable_torchvision()
from transformers import (  # noqa: E402
    BertConfig,
    BertModel,
    Dinov2Config,
    Dinov2Model,
)

HEAD = (
    "model          tokens layers   plain s  captured s   ratio  median  held MiB  "
    "n x n MiB"
)


def dinov2_small():
    """DINOv2 ViT-S/14 at 518 px: 12 layers, 6 heads, 1,370 tokens."""
    config = Dinov2Config(
        hidden_size=384, num_attention_heads=6, patch_size=14, image_size=518
    )
    model = Dinov2Model(config).eval()
    return model, {"pixel_values": torch.randn(1, 3, 518, 518)}


def padded_texts():
    """BERT of the size of ViT-S on four texts of 512, 400, 200 and 50 tokens."""
    config = BertConfig(
        hidden_size=384, num_attention_heads=6, intermediate_size=1536, vocab_size=100
    )
    mask = torch.arange(512) < torch.tensor([[512], [400], [200], [50]])
    ids = torch.randint(3, 100, (4, 512)) * mask
    return BertModel(config).eval(), {"input_ids": ids, "attention_mask": mask.long()}


def flux_blocks():
    """One dual and one single block of FLUX.1: 24 heads of 128, 1,024 + 256 tokens."""
    sizes = {"num_layers": 1, "num_single_layers": 1}
    model = diffusion.build("FluxTransformer2DModel", **sizes).eval()
    rows = columns = 32
    places = torch.zeros(rows, columns, 3)
    places[..., 1] += torch.arange(rows)[:, None]
    places[..., 2] += torch.arange(columns)
    return model, {
        "hidden_states": torch.randn(1, rows * columns, 64),
        "encoder_hidden_states": torch.randn(1, 256, 4096),
        "pooled_projections": torch.randn(1, 768),
        "timestep": torch.tensor([1.0]),
        "img_ids": places.reshape(-1, 3),
        "txt_ids": torch.zeros(256, 3),
    }


def plain(model, inputs):
    model(**inputs)


def captured(model, inputs):
    with capture(model) as attention:
        model(**inputs)
    for record in attention:
        record.live  # noqa: B018
    return attention


def seconds(run, model, inputs):
    start = time.process_time()
    run(model, inputs)
    return time.process_time() - start


def measure(build, rounds):
    """One line of the table: both times, their ratio, and the bytes held."""
    model, inputs = build()
    attention = captured(model, inputs)
    plain(model, inputs)
    pairs = [
        (seconds(plain, model, inputs), seconds(captured, model, inputs))
        for _ in range(rounds)
    ]
    alone, watched = (min(column) for column in zip(*pairs, strict=True))
    median = statistics.median(w / a for a, w in pairs)
    heads, n = attention[0].shape[1:3]
    matrices = sum(4 * heads * n * n for _ in attention)
    return (
        f"{build.__name__:14s} {n:6,d} {len(attention):6d} {alone:9.3f} {watched:11.3f}"
        f" {watched / alone:7.3f} {median:7.3f} {attention.nbytes / 2**20:9.1f}"
        f" {matrices / 2**20:10.1f}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), float32")
    print(HEAD)
    with torch.no_grad():
        for build in (dinov2_small, padded_texts, flux_blocks):
            print(measure(build, options.rounds), flush=True)
