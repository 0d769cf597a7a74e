"""A small classifier of Fashion-MNIST: the features of every score, and its classes.

python benchmarks/guidance/classifier.py --data FOLDER --out classifier.safetensors
"""

import argparse
from pathlib import Path

import torch
from data import CLASSES, DEFAULT_FOLDER, load
from safetensors.torch import load_file, save_file
from torch import nn

FEATURES = 64


class Classifier(nn.Module):
    """Three strided convolutions, 64 features, ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.GELU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.GELU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.GELU(),
            nn.Flatten(), nn.Linear(1024, FEATURES),
        )  # fmt: skip
        self.head = nn.Sequential(nn.GELU(), nn.Linear(FEATURES, CLASSES))

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.features(pictures)
        return features, self.head(features)


@torch.no_grad()
def describe(model: Classifier, pictures: torch.Tensor) -> tuple:
    """Features (n, 64) and class probabilities (n, 10)."""
    parts = [model(part) for part in pictures.split(1000)]
    features = torch.cat([part[0] for part in parts])
    return features.numpy(), torch.cat([part[1] for part in parts]).softmax(-1).numpy()


def load_classifier(path: Path) -> Classifier:
    model = Classifier().eval()
    model.load_state_dict(load_file(path))
    return model


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    pictures, labels = load(args.data, "train")
    model = Classifier()
    steps = args.epochs * len(pictures) // args.batch
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps)
    for step in range(steps):
        rows = torch.randint(len(pictures), (args.batch,))
        _, scores = model(pictures[rows])
        loss = nn.functional.cross_entropy(scores, labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 500 == 0:
            print(step, f"{loss.item():.3f}", flush=True)
    held_out, truth = load(args.data, "t10k")
    right = torch.from_numpy(describe(model.eval(), held_out)[1]).argmax(-1) == truth
    accuracy = right.float().mean().item()
    print(f"accuracy on the held-out pictures {accuracy:.4f}")
    save_file(model.state_dict(), args.out, metadata={"accuracy": f"{accuracy:.4f}"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--out", type=Path, default=Path("classifier.safetensors"))
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    torch.set_num_threads(1)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
