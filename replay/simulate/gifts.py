"""What a tip looks like on the wire: the rung of the ladder, a combo's frames, a reversal."""

from typing import NamedTuple

import numpy as np

from replay.simulate import behaviour
from replay.simulate.rows import TYPE, Rows, rows

_RUNG = np.cumsum(behaviour.LADDER_SHARE)
_NORMAL = np.linspace(-4, 4, 801)
_BELOW = np.cumsum(np.exp(-(_NORMAL**2) / 2)) / np.exp(-(_NORMAL**2) / 2).sum()  # the normal distribution function


class Tip(NamedTuple):
    """Rows of one tip; the first is the tip itself, the others follow within seconds."""

    rows: Rows
    last_ms: int  # when its last gift frame comes


def price(wealth: float, rng: np.random.Generator) -> int:
    """Draw a gift's price: a rung of the ladder, higher for the wealthy."""
    level = behaviour.WEALTH * wealth + np.sqrt(1 - behaviour.WEALTH**2) * rng.standard_normal()
    share = np.interp(level, _NORMAL, _BELOW)
    return int(behaviour.LADDER[min(np.searchsorted(_RUNG, share * _RUNG[-1]), len(_RUNG) - 1)])


def tip(head: Rows, number: int, wealth: float, rng: np.random.Generator) -> Tip:
    """Make a tip's rows. `head` is one row that says who, where and when; `number` is the transaction's."""
    unit = price(wealth, rng)
    time_ms = int(head["time_ms"][0])
    if rng.random() < behaviour.PAID_CHAT:
        said = _like(head, "paid_chat", 1)
        said["amount"] = max(100, unit)
        return Tip(said, time_ms)
    items = 1
    if unit <= behaviour.COMBO_PRICE and rng.random() < behaviour.COMBO:
        items = 2 + min(int(rng.pareto(1.1) * 2), 500)
    shown = np.unique(np.linspace(1, items, min(items, 6)).astype(int))
    frames = _like(head, "gift", len(shown))
    frames["count"] = shown
    frames["amount"] = unit * shown
    frames["gift"] = number
    if items > 1:
        frames["combo"] = 1
        frames["combo"][-1] = 2
        frames["time_ms"][1:] += np.cumsum(rng.integers(300, 1_300, len(shown) - 1))
    last_ms = int(frames["time_ms"][-1])
    if rng.random() < behaviour.REVERSAL:
        back = _like(head, "gift_reversal", 1)
        back["gift"] = number
        back["time_ms"] = last_ms + rng.integers(5_000, 300_000)
        frames = np.concatenate([frames, back])
    return Tip(frames, last_ms)


def _like(head: Rows, kind: str, n: int) -> Rows:
    made = rows(n, kind)
    made[:] = head
    made["type"] = TYPE[kind]
    return made
