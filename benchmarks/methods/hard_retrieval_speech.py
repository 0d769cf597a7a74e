"""Sounds with their words: short recordings, and review sentences spoken by flite."""

import re
import subprocess

import torch
from scipy.io import wavfile

RATE = 16_000
VOICES = ("slt", "rms", "awb")


def recorded(folder):
    """Sounds and words of Debian's pocketsphinx-testdata: a book and playing cards."""
    found = []
    for file in (
        folder / "librivox" / "transcription",
        folder / "cards" / "cards.transcription",
    ):
        for line in file.read_text().splitlines():
            words, name = re.fullmatch(r"<s> (.*) </s> \((.*)\)", line).groups()
            found.append((heard(file.parent / f"{name}.wav"), words))
    return found


def spoken(reviews, folder, count):
    """The first reviews of 8 to 16 plain words, spoken by three voices in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = [line for line in reviews if re.fullmatch(r"[a-z .]+", line)]
    lines = [line for line in plain if 8 <= len(words_of(line)) <= 16]
    found = []
    for number, line in enumerate(lines[:count]):
        file = folder / f"{number}.wav"
        if not file.exists():
            voice = VOICES[number % len(VOICES)]
            command = ["flite", "-voice", voice, "-t", line, "-o", str(file)]
            subprocess.run(command, check=True)  # noqa: S603 - words of ours only
        found.append((heard(file), line))
    return found


def heard(file):
    rate, samples = wavfile.read(file)
    assert rate == RATE, f"{file} has {rate} samples a second"
    return torch.from_numpy(samples.copy()).float() / 2**15


def words_of(text):
    return re.sub(r"[^a-z ]", "", text.lower().replace("-", " ")).split()


def word_errors(said, heard_as):
    """Words to insert, delete or replace, and how many were said."""
    said, heard_as = words_of(said), words_of(heard_as)
    row = list(range(len(heard_as) + 1))
    for i, one in enumerate(said, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(heard_as, 1):
            cost = min(row[j] + 1, row[j - 1] + 1, before + (one != other))
            before, row[j] = row[j], cost
    return row[-1], len(said)
