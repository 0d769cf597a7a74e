"""Text of a small chat model beside the collapse that one attention layer predicts."""

import json
import time
import warnings

import numpy as np
import torch

from attnchain.errors import AssumptionWarning
from attnchain.methods.ccmc import fit_prompts, generate, token_frequencies
from attnchain.models import LoadedText, load, of_kind

MODEL = "smollm2-135m-instruct"
TEXTS, PROMPT, LENGTH, WINDOW = 12, 64, 640, 64
HEATS = (1.0, 0.7, 0.0)
LETTERS, CONTEXT = 27, 64


def reviews(folder):
    """Sentences of film reviews, positive and negative in turn, as one text each."""
    sides = [
        (folder / f"rt-polarity.{side}").read_text("latin-1").splitlines()
        for side in ("pos", "neg")
    ]
    return [line.strip() for pair in zip(*sides, strict=True) for line in pair]


def human_texts(loaded, folder):
    """TEXTS rows of PROMPT + LENGTH tokens, cut out of the reviews one by one."""
    tokens = loaded.tokenizer("\n".join(reviews(folder)[:2000]))["input_ids"]
    size = PROMPT + LENGTH
    return torch.tensor(tokens[: TEXTS * size]).view(TEXTS, size)


@torch.no_grad()
def continued(loaded, prompts, heat, seed):
    """LENGTH tokens after each prompt, drawn at a temperature; 0 takes the likeliest.

    Tokens that end a text are never drawn: the theory's text does not end.
    """
    generator = torch.Generator().manual_seed(seed)
    ends = [int(i) for i in loaded.tokenizer.all_special_ids]
    given, past, drawn = prompts, None, []
    for _ in range(LENGTH):
        out = loaded.model(
            input_ids=given, past_key_values=past, use_cache=True, logits_to_keep=1
        )
        past, scores = out.past_key_values, out.logits[:, -1].double()
        scores[:, ends] = -torch.inf
        if heat:
            shares = (scores / heat).softmax(-1)
            given = torch.multinomial(shares, 1, generator=generator)
        else:
            given = scores.argmax(-1, keepdim=True)
        drawn.append(given)
    return torch.cat(drawn, 1)


@torch.no_grad()
def own_chain(loaded, vocabulary):
    """P of the model: its next token after one token alone, inside a vocabulary."""
    scores = loaded.model(input_ids=vocabulary[:, None]).logits[:, -1].double()
    return scores[:, vocabulary].softmax(-1)


def predicted(loaded, prompts, seed):
    """What a context-conditioned chain with the model's own P makes of the prompts."""
    generator, texts = torch.Generator().manual_seed(seed), []
    for prompt in prompts:
        vocabulary, inside = prompt.unique(return_inverse=True)
        chain = own_chain(loaded, vocabulary)
        texts.append(vocabulary[generate(chain, inside, LENGTH, generator=generator)])
    return torch.stack(texts)


def windows(prompts, texts):
    """Of every window of every text: distinct tokens, tokens never seen before, and
    runs of four that were there before; all as shares."""
    rows = []
    for prompt, text in zip(prompts.tolist(), texts.tolist(), strict=True):
        seen, runs, whole, row = set(prompt), set(), prompt + text, []
        runs.update(tuple(prompt[i : i + 4]) for i in range(len(prompt) - 3))
        for first in range(0, len(text), WINDOW):
            own, new, again = set(), 0, 0
            for i in range(first + PROMPT, first + PROMPT + WINDOW):
                token, run = whole[i], tuple(whole[i - 3 : i + 1])
                new, again = new + (token not in seen), again + (run in runs)
                own.add(token)
                seen.add(token)
                runs.add(run)
            row.append((len(own) / WINDOW, new / WINDOW, again / WINDOW))
        rows.append(row)
    return np.array(rows)


def texts_of(loaded, folder, out):
    """All texts by the name of who wrote them; those of the model are kept in `out`."""
    human = human_texts(loaded, folder)
    prompts = human[:, :PROMPT]
    found = {"reviews (human)": human[:, PROMPT:]}
    for heat in HEATS:
        file = out / f"text-{heat}-{TEXTS}-{LENGTH}.json"
        if not file.exists():
            begun = time.perf_counter()
            text = continued(loaded, prompts, heat, 0)
            file.write_text(json.dumps(text.tolist()))
            print(
                f"temperature {heat}: {time.perf_counter() - begun:.0f} s", flush=True
            )
        name = f"model, temperature {heat}" if heat else "model, likeliest token"
        found[name] = torch.tensor(json.loads(file.read_text()))
    found["context-conditioned chain"] = predicted(loaded, prompts, 0)
    return prompts, found


def model_part(folder, out):
    """Windows of every writer, `(texts, windows, 3)`, and an example of each."""
    loaded = of_kind(load(MODEL), LoadedText)
    prompts, texts = texts_of(loaded, folder, out)
    shares = {name: windows(prompts, text) for name, text in texts.items()}
    ends = {
        name: loaded.tokenizer.decode(text[0, -40:]) for name, text in texts.items()
    }
    return shares, ends


def letters_part(folder):
    """Bits a letter on held-out reviews, of prompts of CONTEXT letters.

    Samples whose next letter is not in its prompt are left out, since the chain gives
    them nothing. Every model is fitted on the first half.
    """
    kept, text = " abcdefghijklmnopqrstuvwxyz", " ".join(reviews(folder)).lower()
    codes = torch.tensor([kept.index(c) for c in text if c in kept])
    rows = codes.unfold(0, CONTEXT + 1, 13)
    inside = (rows[:, :-1] == rows[:, -1:]).any(-1)
    share, rows = float(inside.double().mean()), rows[inside]
    half = len(rows) // 2
    prompts, last, following = rows[:, :-1], rows[:, -2], rows[:, -1]
    offered = token_frequencies(prompts, LETTERS)
    learned = slice(None, half)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AssumptionWarning)
        fit = fit_prompts(prompts[learned], following[learned], LETTERS)
        seen = fit_prompts_of_support(
            offered[learned], last[learned], following[learned]
        )
    bigram = torch.full((LETTERS, LETTERS), 0.1, dtype=torch.float64)
    ones = torch.ones(half, dtype=torch.float64)
    bigram.index_put_((last[learned], following[learned]), ones, accumulate=True)
    bigram /= bigram.sum(-1, keepdim=True)
    support = (offered > 0).double()
    uniform = torch.ones(LETTERS, LETTERS, dtype=torch.float64) / LETTERS
    models = {
        "frequencies in the prompt alone": (uniform, offered),
        "bigram, among the prompt's letters": (bigram, support),
        "bigram times frequencies, not fitted": (bigram, offered),
        "fitted among the prompt's letters": (seen, support),
        "context-conditioned chain, fitted": (fit.matrix, offered),
    }
    held = slice(half, None)
    bits = {
        name: bits_of(matrix, weights[held], last[held], following[held])
        for name, (matrix, weights) in models.items()
    }
    return share, bits


def fit_prompts_of_support(offered, last, following):
    """The chain's likelihood with every letter of the prompt counted once."""
    prompts = []
    for row, query in zip(offered, last, strict=True):
        letters = row.nonzero()[:, 0]
        prompts.append(torch.cat([letters[letters != query], query[None]]))
    return fit_prompts(prompts, following, LETTERS).matrix


def bits_of(matrix, offered, last, following):
    """Bits a letter, one for each sample; 1 % of every guess is spread evenly."""
    guess = offered * matrix[last].nan_to_num(1 / LETTERS)
    guess = guess / guess.sum(-1, keepdim=True).clamp_min(1e-300)
    even = (offered > 0).double()
    mixed = 0.99 * guess + 0.01 * even / even.sum(-1, keepdim=True)
    return -mixed.gather(-1, following[:, None])[:, 0].log2()
