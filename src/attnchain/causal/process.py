"""Two Markov processes over classes, one event at a time.

The reversible one makes every move at its rate. The zig-zag one also has a direction:
upwards it only inserts, downwards it only deletes, and it turns round at the positive
part of (total rate the other way - total rate this way). Both leave the target
stationary; the zig-zag, with each direction half of the time.

Sources:
    Schauer and Wienöbst, Causal structure learning with momentum, arXiv 2310.05655.
"""

import math
from typing import Literal, NamedTuple

import numpy as np

from attnchain.causal.moves import DELETE, INSERT, Move
from attnchain.causal.rates import Outlook, UniformOutlook

Process = Literal["zigzag", "reversible"]
"""With momentum, or in detailed balance."""
PROCESSES = ("zigzag", "reversible")


class Event(NamedTuple):
    """How a state is left.

    Attributes:
        log_holding: ln of the expected time until then.
        move: The move made, or None where only the direction turned.
        direction: The direction afterwards.
    """

    log_holding: float
    move: Move | None
    direction: int


def next_event(
    process: Process,
    outlooks: tuple[Outlook | UniformOutlook, Outlook | UniformOutlook],
    direction: int,
    generator: np.random.Generator,
) -> Event:
    """Draws the next event of a state with at least one move."""
    up, down = outlooks
    if process == "reversible":
        log_rate = float(np.logaddexp(up.log_rate, down.log_rate))
        rises = generator.random() < math.exp(up.log_rate - log_rate)
        move = (up if rises else down).draw(generator)
        return Event(-log_rate, move, INSERT if rises else DELETE)
    along, against = (up, down) if direction == INSERT else (down, up)
    log_rate = max(along.log_rate, against.log_rate)
    if generator.random() < math.exp(along.log_rate - log_rate):
        return Event(-log_rate, along.draw(generator), direction)
    return Event(-log_rate, None, -direction)
