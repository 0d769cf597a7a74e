"""Deletion and insertion on sentences: what a sentiment owes to each token.

Tokens of film reviews (rt-polarity and SST-2) are left out, most relevant first
(deletion: the score should fall at once, a small area is good), or put in, most
relevant first (insertion: a large area is good). Scores: the decision of a ridge head
on all-MiniLM-L6-v2, and the log-odds of ' positive' against ' negative' as the next
token of SmolLM2-135M-Instruct (a 4-bit copy; relevance in float32, curves in
bfloat16), each counted towards what the model says of the whole sentence. Special
tokens and the prompt stay. No method was tuned.

    python benchmarks/methods/relevance_text.py --data ../shared/data

Writes OUT/relevance_text.md and .json; each sentence is kept in OUT as it ends.
"""

import argparse
import copy
import csv
from pathlib import Path

import numpy as np
import relevance
import torch
from kept import kept_run
from sklearn.linear_model import RidgeClassifierCV

from attnchain import capture, mix, token_rank
from attnchain.methods import residual_shares
from attnchain.models import load

REMOVED = tuple(i / 10 for i in range(1, 11))
DRAWS = 5
PROMPT = ("Movie review: ", "\nThe sentiment of this review is")
LAYERS = {
    "ridge": {"stream": "encoder.layer.*", "branch": "*.attention.output.dense"},
    "chat": {"stream": "layers.*", "branch": "*.self_attn"},
}
MEASURES = ("deletion", "insertion")
RIVAL = "raw attention, last layer"


class Ridge:
    """Sentence encoder with a linear head; the score is its decision."""

    def __init__(self, data, avoided):
        self.loaded, self.key = load("all-minilm-l6-v2"), "ridge"
        self.network = self.loaded.model
        texts, kinds = [], []
        for kind in ("neg", "pos"):
            file = data / "rt-polarity" / f"rt-polarity.{kind}"
            lines = [line.strip() for line in file.read_text("latin-1").splitlines()]
            own = [x for x in lines[1::5] if plain(x) not in avoided][:400]
            texts, kinds = texts + own, kinds + [kind == "pos"] * len(own)
        with torch.no_grad():
            pooled = [self._pooled(self.loaded.tokens(text)) for text in texts]
        head = RidgeClassifierCV(alphas=np.logspace(-3, 3, 13))
        head.fit(torch.cat(pooled).numpy(), kinds)
        self.weights = torch.from_numpy(head.coef_.reshape(-1)).float()
        self.bias = float(np.ravel(head.intercept_)[0])

    def _pooled(self, given):
        states = self.network(**given).last_hidden_state.mean(1)
        return torch.nn.functional.normalize(states, dim=-1)

    def tokens(self, sentence):
        """All tokens, and the positions that can be left out."""
        ids = self.loaded.tokens(sentence)["input_ids"][0]
        return ids, torch.arange(1, len(ids) - 1)

    def score(self, ids):
        given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        return self._pooled(given) @ self.weights + self.bias

    def start(self, n):
        return torch.full((n,), 1 / n)

    def chain(self, attention):
        return mix(attention.select(), "uniform")

    damping = 0.99


class Chat:
    """Chat model; the score is the log-odds of two next tokens."""

    def __init__(self):
        self.loaded, self.key = load("smollm2-135m-instruct"), "chat"
        self.network = self.loaded.model.model
        self.quick = copy.deepcopy(self.network).bfloat16()
        words = [
            self.loaded.tokenizer(w)["input_ids"] for w in (" positive", " negative")
        ]
        assert all(len(word) == 1 for word in words)
        self.words = [word[0] for word in words]

    def tokens(self, sentence):
        first, last = (self.loaded.tokenizer(p)["input_ids"] for p in PROMPT)
        own = self.loaded.tokenizer(sentence)["input_ids"]
        places = torch.arange(len(first), len(first) + len(own))
        return torch.tensor(first + own + last), places

    def score(self, ids):
        model = self.network if torch.is_grad_enabled() else self.quick
        states = model(input_ids=ids, use_cache=False).last_hidden_state
        words = self.loaded.model.lm_head.weight[self.words]
        return states[:, -1].float() @ (words[0] - words[1])

    def start(self, n):
        return torch.nn.functional.one_hot(torch.tensor(n - 1), n).float()

    def chain(self, attention):
        return mix(attention.select(), "uniform")

    damping = 0.85
    """Of a causal chain, which else is all at its first token."""


def plain(text):
    """A sentence by its letters, as two data sets may space it differently."""
    return "".join(c for c in text.lower() if c.isalnum())


def sentences(data, count):
    """Reviews of 12 to 30 words: half of rt-polarity, half of SST-2, no two alike."""
    chosen = relevance.sentences(data, count // 2)
    taken = {plain(text) for text in chosen}
    with (data / "sst2" / "dev.tsv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            text = row["sentence"].strip()
            if 12 <= len(text.split()) <= 30 and plain(text) not in taken:
                chosen.append(text)
                taken.add(plain(text))
            if len(chosen) == count:
                break
    return chosen


def relevances(subject, ids, sign):
    """Relevance of all tokens by every method."""
    patterns, n = LAYERS[subject.key], len(ids)
    with (
        capture(subject.network, gradients=True) as attention,
        residual_shares(subject.network, **patterns) as shares,
    ):
        score = sign * subject.score(ids[None])[0]
    start = subject.start(n)
    shares = [share.float() for share in shares]
    found = relevance.scores(attention, score, shares, start, 0)
    del found["random"]
    chain = subject.chain(attention)
    steps = start.double()
    for bounce in range(1, 5):
        steps = chain.push(steps.to(chain.dtype)[None])[0]
        if bounce in (1, 2, 4):
            found[f"bounces of the mean head: {bounce}"] = steps
    for direction in ("incoming", "outgoing"):
        rank = token_rank(chain, damping=subject.damping, direction=direction)
        name = "TokenRank" if direction == "incoming" else "TokenRank, outgoing"
        found[name] = rank.distribution.reshape(-1)
    return {name: values.detach().double() for name, values in found.items()}


def areas(subject, sentence, seed):
    """Areas under both curves, by method, and the whole sentence's score."""
    ids, places = subject.tokens(sentence)
    with torch.no_grad():
        whole = float(subject.score(ids[None])[0])
    sign = 1 if whole >= 0 else -1
    found = relevances(subject, ids, sign)
    generator = torch.Generator().manual_seed(seed)
    for draw in range(DRAWS):
        found[f"random|{draw}"] = torch.rand(len(ids), generator=generator)
    orders = {
        name: values[places].argsort(descending=True, stable=True)
        for name, values in found.items()
    }
    given = (subject, ids, places, orders.values())
    falls = {m: left_out(*given, flipped=m == "insertion") for m in MEASURES}
    steps = (0.0, *REMOVED)
    result = {"whole": abs(whole)}
    for measure, curves in falls.items():
        own = [[abs(whole), *(sign * curve).tolist()] for curve in curves]
        values = [float(np.trapezoid(curve, steps)) for curve in own]
        result[measure] = over_draws(dict(zip(orders, values, strict=True)))
    return result


def over_draws(values):
    """Random orders as one method: the mean of their areas."""
    drawn = [x for name, x in values.items() if name.startswith("random|")]
    named = {n: x for n, x in values.items() if not n.startswith("random|")}
    return named | {"random": float(np.mean(drawn))}


@torch.no_grad()
def left_out(subject, ids, places, orders, *, flipped):
    """Scores with a share of the tokens left out, one row for each order.

    Most relevant first or, flipped, least relevant first: insertion read backwards.
    """
    columns = []
    for share in REMOVED:
        count, rows = round(share * len(places)), []
        for order in orders:
            gone = order.flip(0)[:count] if flipped else order[:count]
            kept = torch.ones(len(ids), dtype=torch.bool)
            kept[places[gone]] = False
            rows.append(ids[kept])
        different, back = torch.unique(torch.stack(rows), dim=0, return_inverse=True)
        columns.append(subject.score(different)[back])
    return torch.stack(columns, 1).double()


def summary(items):
    """Means, and differences to raw attention and to random, with half widths."""
    table = {}
    for name in items[0]["deletion"]:
        row = {}
        for m in MEASURES:
            own = np.array([item[m][name] for item in items])
            row[m] = (float(own.mean()), relevance.half_width(own))
            for other in (RIVAL, "random"):
                gap = own - np.array([item[m][other] for item in items])
                row[f"{m} minus {other}"] = (
                    float(gap.mean()),
                    relevance.half_width(gap),
                )
        table[name] = row
    whole = float(np.mean([item["whole"] for item in items]))
    return {"sentences": len(items), "whole": whole, "methods": table}


def written(title, result):
    words = list(next(iter(result["methods"].values())))
    lines = [f"**{title}**: {result['sentences']} sentences, mean score of the whole "
             f"{result['whole']:.2f}", "", "| method | " + " | ".join(words) + " |",
             "|---" * (len(words) + 1) + "|"]  # fmt: skip
    for name, row in result["methods"].items():
        cells = [
            f"{row[w][0]:{'+' if ' minus ' in w else ''}.3f} ± {row[w][1]:.3f}"
            for w in words
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("out/relevance_text"))
    parser.add_argument("--ridge", type=int, default=100, help="sentences")
    parser.add_argument("--chat", type=int, default=40, help="sentences")
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines, results = [], {}
    for key, count in (("ridge", args.ridge), ("chat", args.chat)):
        chosen = sentences(args.data, count)
        avoided = {plain(text) for text in chosen}
        subject = Ridge(args.data, avoided) if key == "ridge" else Chat()
        items = [
            kept_run(args.out, f"{key}-{i}", lambda: areas(subject, chosen[i], i))  # noqa: B023
            for i in range(len(chosen))
        ]
        results[key] = summary(items)
        lines += written(subject.loaded.name, results[key])
    (args.out / "relevance_text.md").write_text("\n".join(lines))
    kept_run(args.out, "relevance_text", lambda: results)


if __name__ == "__main__":
    main()
