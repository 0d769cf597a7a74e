"""Which sounds made this word: Whisper's cross-attention against spoken boundaries.

Sentences are spoken by eSpeak NG, which tells when each word begins, so the time that a
word took is known. `pip install espeakng-loader` brings it.
"""

import ctypes

import numpy as np
import torch
from scipy.signal import resample_poly

from attnchain import capture
from attnchain.methods import cross_relevance, residual_shares
from attnchain.models import load

SENTENCES = (  # Harvard sentences, lists 1 and 2
    "The birch canoe slid on the smooth planks.",
    "Glue the sheet to the dark blue background.",
    "These days a chicken leg is a rare dish.",
    "Rice is often served in round bowls.",
    "The juice of lemons makes fine punch.",
    "The box was thrown beside the parked truck.",
    "Four hours of steady work faced us.",
    "A large size in stockings is hard to sell.",
    "The boy was there when the sun rose.",
    "A rod is used to catch pink salmon.",
    "The source of the huge river is the clear spring.",
    "Help the woman get back to her feet.",
)
RATE = 16000
FRAME = 0.02
SLACK = 0.1
START = (50257, 50362)
WORD, END = 1, 0


class Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    )


CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(Event)
)


def spoken(sentences):
    """Sound at 16 kHz of each sentence, and when each of its words was spoken."""
    import espeakng_loader  # noqa: PLC0415  only this part needs it

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    data = espeakng_loader.get_data_path().encode()
    rate = library.espeak_Initialize(2, 0, data, 0)
    pieces, starts = [], {}

    def heard(wave, count, events):
        if wave and count:
            pieces.append(np.ctypeslib.as_array(wave, (count,)).copy())
        place = 0
        while events[place].type != END:
            if events[place].type == WORD:
                starts[events[place].text_position - 1] = (
                    events[place].audio_position / 1000
                )
            place += 1
        return 0

    callback = CALLBACK(heard)
    library.espeak_SetSynthCallback(callback)
    library.espeak_SetVoiceByName(b"en-us")
    for sentence in sentences:
        pieces.clear()
        starts.clear()
        raw = sentence.encode() + b"\0"
        library.espeak_Synth(raw, len(raw), 0, 1, 0, 1, None, None)
        wave = np.concatenate(pieces) / 2**15
        sound = torch.from_numpy(resample_poly(wave, RATE, rate)).float()
        yield sound, _spans(sentence, starts, len(wave) / rate)


def _spans(sentence, starts, total):
    """When each word was spoken; None where it was joined to the one before."""
    begun = sorted(starts.values())
    ends = dict(zip(begun, [*begun[1:], total], strict=True))
    spans, place = [], 0
    for word in sentence.split():
        begin = starts.get(sentence.index(word, place))
        place = sentence.index(word, place) + len(word)
        spans.append(None if begin is None else (begin, ends[begin]))
    return spans


def word_positions(tokenizer, sentence):
    """Tokens of the sentence, and the place of each word's first token."""
    ids, first = [], []
    for number, word in enumerate(sentence.split()):
        first.append(len(START) + len(ids))
        text = word if number == 0 else f" {word}"
        ids += tokenizer.encode(text, add_special_tokens=False)
    return [*START, *ids], first


def maps(attention, score, shares, streams):
    """How much each frame counts for each position of the text, by method."""
    decoder = [r for r in attention.records if "decoder" in r.site.name]
    cross = [r for r in decoder if r.site.kind == "cross"]
    own = shares[-len(decoder) :]

    def between(records, **options):
        found = cross_relevance(records, streams, **options)
        return found.between("text", "sound")[0]

    mean = torch.stack([r.probabilities()[0].mean(0) for r in cross])
    return {
        "cross-attention, last layer": mean[-1],
        "cross-attention, mean of layers": mean.mean(0),
        "rollout": between(decoder, weights=0.5),
        "weighted rollout (no gradient)": between(decoder, weights=own),
        "Chefer": between(decoder, gradient=score),
        "weighted, gradient (reconstruction)": between(
            decoder, gradient=score, weights=own
        ),
        "weighted, gradient, rows normalised": between(
            decoder, gradient=score, weights=own, normalize=True
        ),
    }


def measure(found, span, total):
    """Whether the peak lies in the word's time, and the share of relevance there."""
    time = (torch.arange(len(found)) + 0.5) * FRAME
    inside = (time >= span[0] - SLACK) & (time <= span[1] + SLACK)
    mass = found.clamp_min(0)
    while_spoken = time <= total + SLACK
    return {
        "peak": float(inside[found.argmax()]),
        "share": float(mass[inside].sum() / mass.sum().clamp_min(1e-30)),
        "share of speech": float(
            mass[inside].sum() / mass[while_spoken].sum().clamp_min(1e-30)
        ),
        "chance": float(inside.sum() / while_spoken.sum()),
    }


def one_sentence(speech, sound, spans, sentence):
    """All words of one sentence."""
    ids, first = word_positions(speech.tokenizer, sentence)
    features = speech.features(sound, rate=RATE)
    prompt = torch.tensor([ids])
    patterns = {"stream": "*attn_layer_norm", "branch": "*_attn"}
    with (
        capture(speech.model, gradients=True) as attention,
        residual_shares(speech.model, **patterns) as shares,
    ):
        output = speech.model(input_features=features, decoder_input_ids=prompt)
    logits = output.logits[0]
    streams = {"text": len(ids), "sound": 1500}
    total = len(sound) / RATE
    rows, drawn = [], {}
    for place, span in zip(first, spans, strict=True):
        if span is None:
            continue
        score = logits[place - 1, ids[place]]
        right = bool(logits[place - 1].argmax() == ids[place])
        for name, matrix in maps(attention, score, shares, streams).items():
            line = matrix[place - 1].detach()
            rows.append({"method": name, "right": right} | measure(line, span, total))
            drawn.setdefault(name, []).append(line[: int(total / FRAME) + 5].tolist())
    return rows, drawn


def experiment(count):
    """Rows of all words, by sentence, and what is drawn of the first."""
    speech = load("whisper-tiny.en")
    chosen = SENTENCES[:count]
    rows, example = [], None
    for sentence, (sound, spans) in zip(chosen, spoken(chosen), strict=True):
        own, drawn = one_sentence(speech, sound, spans, sentence)
        rows += [{"sentence": sentence, **row} for row in own]
        pairs = zip(sentence.split(), spans, strict=True)
        known = [(word, span) for word, span in pairs if span is not None]
        example = example or {
            "words": [word for word, _ in known],
            "spans": [span for _, span in known],
            "maps": drawn,
        }
        print(sentence, len(own), flush=True)
    return {"rows": rows, "example": example}
