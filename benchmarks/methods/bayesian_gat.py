"""A graph attention network on Cora whose attention weights may be drawn."""

import time
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from scipy.optimize import minimize_scalar
from torch import nn
from torch.nn.functional import cross_entropy, dropout, elu, leaky_relu

DROPPED = 0.6  # drop-out of features and attention, as Velickovic et al. and the paper


@dataclass(frozen=True)
class Graph:
    """Cora: sparse features, edges with self-loops, and the Planetoid split."""

    places: torch.Tensor
    words: torch.Tensor
    values: torch.Tensor
    labels: torch.Tensor
    source: torch.Tensor
    target: torch.Tensor
    parts: dict

    @property
    def n(self):
        return len(self.labels)

    def table(self, values):
        where = torch.stack([self.places, self.words])
        shape = self.n, int(self.words.max()) + 1
        return torch.sparse_coo_tensor(
            where, values, shape, is_coalesced=True, check_invariants=False
        )

    @classmethod
    def read(cls, folder):
        file = np.load(folder / "cora.npz")
        row, column = (
            torch.from_numpy(file[f"feature_{k}"]).long() for k in ("row", "column")
        )
        labels = torch.from_numpy(file["labels"])
        n = len(labels)
        both = torch.from_numpy(file["edges"]).long()
        loops = torch.arange(n).expand(2, n)
        pairs = torch.cat([both, both.flip(0), loops], 1).unique(dim=1)
        values = 1 / torch.bincount(row, minlength=n)[row].float()
        parts = {k: torch.from_numpy(file[k]) for k in ("train", "validation", "test")}
        return cls(row, column, values, labels, pairs[1], pairs[0], parts)


def at(values, index):
    """Values of nodes at their edges, with a gradient that is quick to add up."""
    return values.index_select(0, index)


def log_softmax(scores, target, n):
    """Of the edges into each node."""
    index = target[:, None].expand_as(scores)
    top = scores.new_full((n, scores.shape[1]), -torch.inf)
    top = top.scatter_reduce(0, index, scores.detach(), "amax")
    shifted = scores - at(top, target)
    total = scores.new_zeros(n, scores.shape[1]).index_add(0, target, shifted.exp())
    return shifted - at(total.log(), target)


class Layer(nn.Module):
    """Additive attention over the neighbours of every node."""

    def __init__(self, width, heads, each, family):
        super().__init__()
        self.heads, self.family = heads, family
        self.project = nn.Parameter(torch.empty(width, heads * each))
        self.ask, self.answer = (
            nn.Parameter(torch.empty(heads, each)) for _ in range(2)
        )
        for parameter in (self.project, self.ask, self.answer):
            nn.init.xavier_uniform_(parameter)
        self.offset = nn.Parameter(torch.zeros(heads * each))
        # The noise of other parameters must not depend on whether there is a prior.
        with torch.random.fork_rng():
            self.prior = nn.Sequential(nn.Linear(each, 10), nn.ReLU(), nn.Linear(10, 1))
        self.kl = None

    def forward(self, graph, x, dropping, drawing):
        features = self.projected(graph, x, dropping).unflatten(1, (self.heads, -1))
        asked, answered = (
            (features * self.ask).sum(-1),
            (features * self.answer).sum(-1),
        )
        scores = leaky_relu(at(asked, graph.target) + at(answered, graph.source), 0.2)
        logs = log_softmax(scores, graph.target, graph.n)
        weights = self.drawn(graph, features, logs, drawing).exp()
        weights = dropout(weights, DROPPED, dropping)
        sent = dropout(features, DROPPED, dropping)
        sent = sent.index_select(0, graph.source) * weights[..., None]
        seen = torch.zeros_like(features).index_add(0, graph.target, sent)
        return seen.flatten(1) + self.offset

    def projected(self, graph, x, dropping):
        if x is None:
            values = dropout(graph.values, DROPPED, dropping)
            return torch.sparse.mm(graph.table(values), self.project)
        return dropout(x, DROPPED, dropping) @ self.project

    def drawn(self, graph, features, logs, drawing):
        if self.family is None:
            return logs
        of_key = at(self.prior(features)[..., 0], graph.source)
        prior = log_softmax(of_key, graph.target, graph.n).exp()
        if torch.is_grad_enabled():
            self.kl = self.family.divergence(logs, prior).mean()
        if not drawing:
            return logs
        return log_softmax(self.family.sample(logs), graph.target, graph.n)


class Network(nn.Module):
    """8 heads of 8, then one head with a channel for each class."""

    def __init__(self, words, classes, family):
        super().__init__()
        self.first = Layer(words, 8, 8, family)
        self.second = Layer(64, 1, classes, family)

    def forward(self, graph, dropping, drawing):
        x = elu(self.first(graph, None, dropping, drawing))
        return self.second(graph, x, dropping, drawing)


@dataclass
class Run:
    """One arm: a family of weights (or none), and what weight its divergence has."""

    family: object
    kl: float
    draws: bool = True

    def train(self, graph, seed, epochs, patience=100):
        torch.manual_seed(seed)
        words, classes = int(graph.words.max()) + 1, int(graph.labels.max()) + 1
        model = Network(words, classes, self.family)
        flat = [p for name, p in model.named_parameters() if "offset" not in name]
        rest = [p for name, p in model.named_parameters() if "offset" in name]
        groups = [{"params": flat, "weight_decay": 5e-4}, {"params": rest}]
        optimizer = torch.optim.Adam(groups, lr=0.005)
        best, waited, kept = [0.0, torch.inf], 0, None
        for epoch in range(epochs):
            self.step(model, graph, optimizer, epoch)
            right, loss = self.validated(model, graph)
            if right >= best[0] and loss <= best[1]:
                kept = {k: v.clone() for k, v in model.state_dict().items()}
                at = epoch
            waited = 0 if right >= best[0] or loss <= best[1] else waited + 1
            best = [max(right, best[0]), min(loss, best[1])]
            if waited == patience:
                break
        model.load_state_dict(kept)
        return model, at, epoch + 1

    def step(self, model, graph, optimizer, epoch):
        part = graph.parts["train"]
        optimizer.zero_grad()
        logits = model(graph, dropping=True, drawing=self.draws)
        loss = cross_entropy(logits[part], graph.labels[part])
        if self.family is not None:
            risen = torch.tensor(float(epoch)).sigmoid()
            loss = loss + self.kl * risen * (model.first.kl + model.second.kl) / 2
        loss.backward()
        optimizer.step()

    @staticmethod
    @torch.no_grad()
    def validated(model, graph):
        part = graph.parts["validation"]
        logits, labels = model(graph, False, False)[part], graph.labels[part]
        right = float((logits.argmax(1) == labels).float().mean())
        return right, float(cross_entropy(logits, labels))


def calibration_error(probabilities, labels, bins=15):
    sure, chosen = probabilities.max(1)
    right = (chosen == labels).double()
    place = (sure * bins).long().clamp_max(bins - 1)
    total = torch.zeros(bins, dtype=torch.float64)
    return float(total.index_add(0, place, right - sure.double()).abs().sum()) / len(
        labels
    )


def quality(logits, labels):
    probabilities = logits.softmax(1)
    return {
        "accuracy": float((logits.argmax(1) == labels).double().mean()),
        "nll": float(cross_entropy(logits, labels)),
        "ece": calibration_error(probabilities, labels),
    }


def best_temperature(logits, labels):
    """The temperature with the smallest loss."""
    found = minimize_scalar(
        lambda t: float(cross_entropy(logits / np.exp(t), labels)),
        bounds=(-4, 4),
        method="bounded",
    )
    return float(np.exp(found.x))


def accuracy_and_certainty(samples, chosen, labels, level=0.05):
    """PAvPU: certain and right or uncertain and wrong, by a paired t-test."""
    top = samples.softmax(-1).mean(0).topk(2).indices
    first, second = (
        samples.gather(2, top[None, :, k : k + 1].expand(len(samples), -1, 1))
        for k in (0, 1)
    )
    gap = (first - second)[..., 0]
    moves = gap.std(0) > 0
    p = torch.ones(gap.shape[1], dtype=torch.float64)
    tested = stats.ttest_1samp(gap[:, moves].double().numpy(), 0).pvalue
    p[moves] = torch.from_numpy(np.asarray(tested))
    right, certain = chosen == labels, p < level
    return float((right == certain).double().mean())


@torch.no_grad()
def measured(model, graph, draws=20):
    logits = model(graph, False, False)
    test, labels = graph.parts["test"], graph.labels
    held = graph.parts["validation"]
    temperature = best_temperature(logits[held], labels[held])
    found = quality(logits[test], labels[test])
    scaled = quality(logits[test] / temperature, labels[test])
    found |= {"temperature": temperature}
    found |= {f"scaled {k}": scaled[k] for k in ("nll", "ece")}
    chosen = logits[test].argmax(1)
    for name, dropping in (("drawn", False), ("drawn, drop-out", True)):
        samples = torch.stack(
            [model(graph, dropping, drawing=True)[test] for _ in range(draws)]
        )
        mean = samples.softmax(-1).mean(0).log()
        found |= {f"{name}: {k}": v for k, v in quality(mean, labels[test]).items()}
        found[f"{name}: pavpu"] = accuracy_and_certainty(samples, chosen, labels[test])
    return found


def one_run(run, graph, seed, epochs):
    start = time.perf_counter()
    model, at, epochs = run.train(graph, seed, epochs)
    torch.manual_seed(10_000 + seed)
    return {
        **measured(model, graph),
        "best epoch": at,
        "epochs": epochs,
        "seconds": round(time.perf_counter() - start, 1),
    }
