"""What is read from a model on one text: tokens, heads, ranks, groups, sinks."""

from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from attnchain.capturing import TextTokens
from attnchain.checks import check_count
from attnchain.errors import ArgumentError, ConvergenceError, WordNotFoundError
from attnchain.files import Outputs
from attnchain.markov import (
    MetastableSets,
    metastable_sets,
    propagate,
)
from attnchain.mixed_heads import MixedHeads
from attnchain.operators import (
    AbstractTransition,
    AttentionTransition,
)
from attnchain.plot import save_figure
from attnchain.ranking import TokenRank, token_rank
from attnchain.readouts import Sink, sinks

if TYPE_CHECKING:
    pass

DAMPING = {True: 0.85, False: 0.99}
"""Of ranks, where attention is causal or not: causal walks all end in one token."""
_SHOWN = 8


@dataclass(frozen=True, eq=False)
class TextReading(MixedHeads):
    """Self-attention of some layers among the tokens of one text.

    Tokens that draw attention whatever is said are left out of the chains, as
    `dropped` tells; `whole` holds the chains with them. What is asked of the chains
    is solved for once, when it is first asked. Positions count all tokens of the
    model's input; vectors of the chains have one entry for each of `kept`.

    Attributes:
        text: The text.
        names: Each token's characters, or its name where it stands for none.
        spans: First character and end of each token; None for special tokens.
        kept: Positions of the tokens that are states of the chains.
        layers: Layer numbers, counted from 0.
        whole: One transition for each layer over all tokens, batch shape `(heads,)`.
        model_name: The model it was read from.
        model_note: What that model's weights are.
    """

    ending: ClassVar[str] = "-text.json"
    beside: ClassVar[tuple[str, ...]] = ("-text.png",)

    text: str
    names: tuple[str, ...]
    spans: tuple[tuple[int, int] | None, ...]
    kept: tuple[int, ...]
    layers: tuple[int, ...]
    whole: tuple[AttentionTransition, ...]
    model_name: str
    model_note: str

    def __repr__(self) -> str:
        return (
            f"TextReading({self.model_name}, {len(self.names)} tokens, "
            f"{len(self.layers)} layers x {self.whole[0].shape[0]} heads)"
        )

    def _repr_html_(self) -> str:
        """Returns the text for notebooks, darker where the incoming rank is larger."""
        most = float(self.incoming.distribution.max())
        shares = dict(zip(self.kept, self.incoming.distribution.tolist(), strict=True))
        boxes = " ".join(
            f'<span style="background:rgba(31,95,191,{shares.get(i, 0) / most:.2f})" '
            f'title="{shares.get(i, 0):.4f}">{escape(name)}</span>'
            for i, name in enumerate(self.names)
        )
        return f"<p>{escape(self.model_name)}: incoming TokenRank</p><p>{boxes}</p>"

    @property
    def causal(self) -> bool:
        """Whether tokens attend to earlier ones only."""
        return self.whole[0].causal

    @property
    def tokens(self) -> tuple[str, ...]:
        """Names of the tokens that are states of the chains."""
        return tuple(self.names[place] for place in self.kept)

    @property
    def dropped(self) -> tuple[str, ...]:
        """Names of the tokens left out of the chains."""
        left_out = set(range(len(self.names))) - set(self.kept)
        return tuple(self.names[place] for place in sorted(left_out))

    @cached_property
    def heads(self) -> tuple[AbstractTransition, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """One transition for each layer over the kept tokens: softmax again on them."""
        if not self.dropped:
            return self.whole
        keep = torch.tensor(self.kept, device=self.whole[0].device)
        return tuple(layer.restrict(keep) for layer in self.whole)

    @property
    def damping(self) -> float:
        """Of the ranks: .85 where attention is causal, else .99."""
        return DAMPING[self.causal]

    @cached_property
    def incoming(self) -> TokenRank:
        """TokenRank of the kept tokens, where attention arrives."""
        return token_rank(self.chain, damping=self.damping)

    @cached_property
    def outgoing(self) -> TokenRank:
        """TokenRank of the kept tokens, where attention comes from."""
        return token_rank(self.chain, damping=self.damping, direction="outgoing")

    @cached_property
    def groups(self) -> MetastableSets | None:
        """Tokens among which attention stays, out and back; None where none stand out.

        Read from `forward_backward` of the mixed chain: tokens that look at the same
        tokens belong together. It has groups where attention is causal too.
        """
        if len(self.kept) < 3:
            return None
        try:
            return metastable_sets(self.out_and_back)
        except (ArgumentError, ConvergenceError):
            return None

    @cached_property
    def sinks(self) -> tuple[Sink, ...]:
        """Tokens of the whole input that draw attention, see `readouts.sinks`."""
        return sinks(self.whole)

    def find(self, word: str) -> tuple[int, ...]:
        """Places of a word among the kept tokens.

        Args:
            word: A whole word or phrase of the text.

        Raises:
            WordNotFoundError: It is not in the text, or only among dropped tokens.
        """
        places = TextTokens(self.text, self.spans).find(word)
        found = tuple(self.kept.index(place) for place in places if place in self.kept)
        if not found:
            message = (
                f"the word {word!r} is a sink that was left out of the chains "
                f"({', '.join(self.dropped)}); read with sink='keep'"
            )
            raise WordNotFoundError(message)
        return found

    def bounces(self, word: str, count: int = 3) -> Float[Tensor, "count n"]:
        """Where attention from a word is after 1, 2, ... bounces.

        Args:
            word: A whole word or phrase of the text; all its tokens, evenly.
            count: Number of bounces.

        Raises:
            WordNotFoundError: The word is not among the tokens.
        """
        check_count(count, "count", low=1, high=10_000, meaning="bounces")
        return propagate(self.chain, self.find(word), count, all_bounces=True)[1:]

    @property
    def treatment(self) -> str:
        """What was done about sinks and causality, in one sentence."""
        left = f"left out: {', '.join(self.dropped)}" if self.dropped else "all kept"
        kind = "causal" if self.causal else "both ways"
        return f"attention {kind}; tokens {left}; ranks damped by {self.damping}"

    def summary(self) -> str:
        lines = [
            f"{self.model_name}: {self.model_note}",
            f"{len(self.names)} tokens; {self.treatment}",
            f"|lambda_2| of {self.lambda2.numel()} heads: {_range(self.lambda2)}",
            f"incoming TokenRank: {self._top(self.incoming)}",
            f"outgoing TokenRank: {self._top(self.outgoing)}",
        ]
        if self.groups is None:
            lines.append("groups: none stand out")
        else:
            lines += [
                f"group {g}: {' '.join(w)}" for g, w in enumerate(self._members())
            ]
        lines += [
            f"sink: {self.names[sink.token]!r} at {sink.token}, {sink.mass:.0%} of the "
            f"attention, in {sink.heads:.1%} of the heads, from layer "
            f"{self.layers[sink.first_layer]}"
            for sink in self.sinks[:_SHOWN]
        ]
        return "\n".join(lines)

    def facts(self) -> dict[str, Any]:
        return {
            **super().facts(),
            "text": self.text,
            "treatment": self.treatment,
            "causal": self.causal,
            "incoming": self.incoming.facts(),
            "outgoing": self.outgoing.facts(),
            "tokens": list(self.rows()),
            "groups": None if self.groups is None else self._members(),
            "sinks": [
                {
                    "token": sink.token,
                    "name": self.names[sink.token],
                    "mass": sink.mass,
                    "largest": sink.largest,
                    "heads": sink.heads,
                    "first_layer": self.layers[sink.first_layer],
                }
                for sink in self.sinks
            ],
        }

    def rows(self) -> list[dict[str, Any]]:
        """One entry for each token of the input: what a table of them holds.

        Dropped tokens have no rank and no group.
        """
        places = {place: state for state, place in enumerate(self.kept)}
        labels = None if self.groups is None else self.groups.labels.tolist()
        incoming, outgoing = (
            rank.distribution.tolist() for rank in (self.incoming, self.outgoing)
        )
        table: list[dict[str, Any]] = []
        for place, (name, span) in enumerate(zip(self.names, self.spans, strict=True)):
            state = places.get(place)
            kept = state is not None
            table.append(
                {
                    "position": place,
                    "token": name,
                    "start": None if span is None else span[0],
                    "end": None if span is None else span[1],
                    "incoming": incoming[state] if kept else None,
                    "outgoing": outgoing[state] if kept else None,
                    "group": labels[state] if kept and labels else None,
                }
            )
        return table

    def write(self, outputs: Outputs) -> None:
        save_figure(self.plot(), outputs.path("-text.png"))

    def _top(self, rank: TokenRank) -> str:
        return ", ".join(
            f"{self.tokens[state]} {float(rank.distribution[state]):.3f}"
            for state in rank.top(_SHOWN).tolist()
        )

    def _members(self) -> list[list[str]]:
        """Tokens of each group, in the order of the text."""
        if self.groups is None:
            return []
        labels = self.groups.labels.tolist()
        count = len(self.groups.prevalence)
        return [
            [
                name
                for name, label in zip(self.tokens, labels, strict=True)
                if label == g
            ]
            for g in range(count)
        ]


def _range(values: Tensor) -> str:
    low, middle, high = values.min(), values.median(), values.max()
    return f"{float(low):.3f} to {float(high):.3f}, median {float(middle):.3f}"
