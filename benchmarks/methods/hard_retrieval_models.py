"""Real decoders with hard layers: what they say, and how sure they are of it."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from hard_retrieval_speech import RATE, word_errors
from transformers.modeling_outputs import BaseModelOutput

import attnchain as ac
from attnchain.capturing import replaced_attention
from attnchain.methods.hard_retrieval import HardRetrieval
from attnchain.methods.hard_retrieval.drawn_keys import drawn_retrieval
from attnchain.models import LoadedSpeech, LoadedText, load, of_kind

PROMPT = (50257, 50362)
END, MOST = 50256, 44
CHAT, TEXTS, GIVEN, TOLD = "smollm2-135m-instruct", 12, 16, 12


@dataclass
class Decoding:
    """A decoder with what it said when it was soft.

    Attributes:
        part: What is replaced: the decoder.
        tokens: Prompts and what the soft decoder made of them, `(texts, tokens)`.
        told: Which of the tokens after the prompt count, `(texts, tokens)`.
        scores: From tokens to the scores of those after the prompt.
        greedy: The likeliest tokens, one after the other, prompts included.
    """

    part: torch.nn.Module
    tokens: torch.Tensor
    told: torch.Tensor
    scores: Callable
    greedy: Callable

    @cached_property
    def soft(self):
        return self.guesses("soft", None)[1]

    @property
    def said(self):
        return self.tokens[:, -self.told.shape[1] :]

    @torch.no_grad()
    def guesses(self, way, layers):
        """Whether each said token is the likeliest, and its log-probability."""
        with switched(self.part, way, layers):
            scores = self.scores(self.tokens)
        chosen = scores.gather(-1, self.said[..., None])[..., 0]
        return scores.argmax(-1) == self.said, chosen - scores.logsumexp(-1)

    def mean(self, values):
        return ((values * self.told).sum(-1) / self.told.sum(-1)).tolist()

    def measured(self, layers):
        """One choice of layers against the soft decoder, a value for each text."""
        right, sure = self.guesses("hard", layers)
        with switched(self.part, "hard", layers), torch.no_grad():
            other = self.greedy()
        same = (other[:, -self.told.shape[1] :] == self.said) | ~self.told
        return other, {
            "same": same.all(-1).double().tolist(),
            "equal": self.mean(right),
            "nats": self.mean(self.soft - sure),
            "drawn": self.mean(self.guesses("drawn", layers)[0]),
            "any": self.mean(self.guesses("any", layers)[0]),
        }


def switched(model, way, layers):
    """The model with some layers soft, hard, drawn, or taking any key they see."""
    if way == "soft":
        return nullcontext()
    if way == "hard":
        return HardRetrieval(model, layers=layers)
    return replaced_attention(model, Drawn(way == "any"), layers=layers)


class Drawn:
    """Attention to one drawn key; to any key that is seen, all alike, as a control."""

    def __init__(self, anyone):
        self.anyone = anyone
        self.generator = torch.Generator().manual_seed(0)

    def __call__(
        self, query, key, value, *, attn_mask=None, is_causal=False, scale=None,
        enable_gqa=False,
    ):  # fmt: skip
        if enable_gqa:
            shares = query.shape[1] // key.shape[1]
            key, value = (x.repeat_interleave(shares, 1) for x in (key, value))
        seen = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool)
        if attn_mask is not None:
            seen = attn_mask if attn_mask.dtype == torch.bool else attn_mask > -1e4
        elif is_causal:
            seen = seen.tril()
        width = query.shape[-1] ** 0.5
        factor = 0 if self.anyone else 1 if scale is None else scale * width
        return drawn_retrieval(
            query * factor, key, value, mask=seen, generator=self.generator
        )


# Speech ------------------------------------------------------------------------------


class Recogniser:
    """Whisper with sounds that its encoder has heard."""

    def __init__(self, sounds):
        self.loaded = of_kind(load("whisper-tiny.en"), LoadedSpeech)
        self.model = self.loaded.model
        self.decoder = self.model.model.decoder
        encoder = self.model.get_encoder()
        with torch.no_grad():
            self.heard = torch.cat(
                [encoder(self.features(s)).last_hidden_state for s, _ in sounds]
            )
        self.prompt = torch.tensor([PROMPT]).expand(len(sounds), -1)

    def features(self, sound):
        return self.loaded.features(sound, rate=RATE)

    def run(self, tokens, past=None):
        return self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=self.heard),
            decoder_input_ids=tokens,
            past_key_values=past,
            use_cache=True,
        )

    def greedy(self):
        """The likeliest token again and again, up to the end of the text."""
        tokens, given, past = self.prompt, self.prompt, None
        over = torch.zeros(len(tokens), dtype=torch.bool)
        while tokens.shape[1] < MOST and not bool(over.all()):
            out = self.run(given, past)
            past, given = out.past_key_values, out.logits[:, -1:].argmax(-1)
            given = given.masked_fill(over[:, None], END)
            over = over | (given[:, 0] == END)
            tokens = torch.cat([tokens, given], 1)
        return torch.nn.functional.pad(tokens, (0, MOST - tokens.shape[1]), value=END)

    def words(self, tokens):
        return self.loaded.tokenizer.batch_decode(tokens, skip_special_tokens=True)


def speech_part(sounds, keep):
    """Every layer of Whisper's decoder, and all of a kind; `keep` keeps each."""
    speech = Recogniser(sounds)
    with torch.no_grad():
        tokens = speech.greedy()
    ended = (tokens[:, 2:] == END).cumsum(-1)
    told = ended - (tokens[:, 2:] == END).long() == 0  # up to the first end
    errors = wrong(sounds, speech.words(tokens))
    choices = {f"cross {i}": [2 * i + 1] for i in range(4)}
    choices |= {f"self {i}": [2 * i] for i in range(4)}
    choices |= {"all cross": [1, 3, 5, 7], "all self": [0, 2, 4, 6], "all": None}
    decoding = Decoding(
        speech.decoder, tokens, told, lambda t: speech.run(t).logits[:, 1:-1],
        speech.greedy,
    )  # fmt: skip

    def part(layers):
        other, found = decoding.measured(layers)
        more = np.array(wrong(sounds, speech.words(other))) - errors
        return found | {"errors": more.tolist(), "soft errors": errors}

    return {
        name: keep(f"speech {name}", lambda chosen=chosen: part(chosen))
        for name, chosen in choices.items()
    }


def wrong(sounds, texts):
    """Word errors a word of each sound."""
    counts = [word_errors(w, t) for (_, w), t in zip(sounds, texts, strict=True)]
    return [wrong / said for wrong, said in counts]


def encoder_heads(sounds):
    """All heads of the encoder on one recording, as chains of its 1,500 frames."""
    loaded = of_kind(load("whisper-tiny.en"), LoadedSpeech)
    encoder = loaded.model.get_encoder()
    with torch.no_grad(), ac.capture(encoder) as attention:
        encoder(loaded.features(sounds[0][0], rate=RATE))
    return [chain for record in attention for chain in record.transition()[0]]


def step_times(sounds, timed, product):
    """Seconds of a decoder step with cross-attention fused, as products, retrieved."""
    speech = Recogniser(sounds[:1])
    token = torch.tensor([[383]])

    def step(way):
        chosen = [1, 3, 5, 7]
        switch = {
            "fused": lambda: replaced_attention(
                speech.decoder,
                torch.nn.functional.scaled_dot_product_attention,
                layers=chosen,
            ),
            "product": lambda: replaced_attention(
                speech.decoder, product, layers=chosen
            ),
            "retrieval": lambda: HardRetrieval(speech.decoder, layers=chosen),
        }[way]

        def call():
            with switch(), torch.no_grad():
                out = speech.run(speech.prompt)
                for _ in range(8):
                    out = speech.run(token, out.past_key_values)

        return call

    return timed({way: step(way) for way in ("fused", "product", "retrieval")}, 1)


# Text --------------------------------------------------------------------------------


def chat_part(lines, keep):
    """Every layer of the chat model, on beginnings of real reviews; each is kept."""
    loaded = of_kind(load(CHAT), LoadedText)
    model = loaded.model
    rows = loaded.tokenizer(lines[:400])["input_ids"]
    prompts = torch.tensor([r[:GIVEN] for r in rows if len(r) >= GIVEN][:TEXTS])
    ends = loaded.tokenizer.all_special_ids

    def greedy():
        given, past, tokens = prompts, None, prompts
        for _ in range(TOLD):
            out = model(given, past_key_values=past, use_cache=True, logits_to_keep=1)
            past, scores = out.past_key_values, out.logits[:, -1]
            scores[:, ends] = -torch.inf
            given = scores.argmax(-1, keepdim=True)
            tokens = torch.cat([tokens, given], 1)
        return tokens

    def scores(tokens):
        found = model(tokens, logits_to_keep=TOLD + 1).logits[:, :-1]
        found[..., ends] = -torch.inf
        return found

    with torch.no_grad():
        tokens = greedy()
    told = torch.ones(TEXTS, TOLD, dtype=torch.bool)
    decoding = Decoding(model, tokens, told, scores, greedy)
    layers = model.config.num_hidden_layers
    choices = {f"layer {i}": [i] for i in range(layers)} | {"all": None}
    return {
        name: keep(f"chat {name}", lambda chosen=chosen: decoding.measured(chosen)[1])
        for name, chosen in choices.items()
    }
