"""What makes a viewer tip: the rates of the acts that lead to a tip, and the true chance that follows from them.

Desire is the viewer's own rate (means, past, mood, the streamer) times what happens now: the room's excitement and
occasion, how long the viewer has watched, a comment or a recharge of one's own a moment ago. A tip comes rarely out
of the blue, mostly with the gift panel open, which desire opens too.
"""

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from replay.simulate import behaviour

Real = NDArray[Any]  # float32 or float64
HORIZONS_S: Final = (60.0, 600.0)
MOST: Final = 1 / 900  # desire per second that nobody exceeds
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)


class State(NamedTuple):
    """What the chance of a tip hangs on, for n visits."""

    desire: Real  # the viewer's own, per second
    occasion: Real  # factor of the room, apart from
    excited: Real  # the excitement by recent tips
    age_s: Real  # watched so far
    heat: Real
    warm: Real
    talk: Real  # comments per second
    open: NDArray[np.bool_]  # whether the gift panel is


class Rates(NamedTuple):
    """Acts per second of n visits."""

    tip: Real
    panel: Real
    recharge: Real
    subscribe: Real


def desire_now(state: State) -> Real:
    """(n,) desire with all that bears on it."""
    dwell = behaviour.DWELL_FLOOR + (1 - behaviour.DWELL_FLOOR) * np.minimum(state.age_s / behaviour.DWELL_S, 1)
    moved = (1 + behaviour.HEAT * state.heat) * (1 + behaviour.WARM * state.warm)
    return np.minimum(state.desire * state.occasion * state.excited * dwell * moved, MOST)


def rates(state: State) -> Rates:
    """Return the rates right now."""
    desire = desire_now(state)
    tip = np.where(state.open, _tip_in_panel(desire), behaviour.QUICK * desire)
    panel = np.where(state.open, 0.0, behaviour.PANEL + behaviour.PANEL_DESIRE * desire)
    panel = np.where(state.desire > 0, panel, 0.0)
    recharge = np.where(state.open, behaviour.PANEL_RECHARGE, 0.0)
    return Rates(tip, panel, recharge, behaviour.SUBSCRIBE * desire)


def chance(state: State) -> Real:
    """(n, 2) true chance of a paid gift or paid message within each horizon, given all but the leaving time.

    An approximation, on average within a fifth of what comes true: what fades is followed to its usual level, the next
    panel is integrated out, a viewer may leave as views of this age do, a broadcast end as broadcasts do; a battle's
    end and what happens within a step of time are not foreseen.
    """
    shown = _tip_in_panel(desire_now(state))
    closes = _panel_closes(state.age_s)
    result = np.empty((len(state.desire), len(HORIZONS_S)))
    for column, horizon in enumerate(HORIZONS_S):
        expected = np.zeros(len(state.desire))
        for node, weight in zip(_NODES, _WEIGHTS, strict=True):
            later = (node + 1) / 2 * horizon
            desire = desire_now(_faded(state, later))
            in_panel = _tip_in_panel(desire)
            finds = behaviour.PANEL + behaviour.PANEL_DESIRE * desire
            hazard = behaviour.QUICK * desire + finds * in_panel / (in_panel + _panel_closes(state.age_s + later))
            stays = behaviour.still_watching(state.age_s + later) / behaviour.still_watching(state.age_s)
            stays *= np.exp(-later / behaviour.BROADCAST_LEFT_S)
            expected += weight / 2 * horizon * hazard * stays
        at_once = shown / (shown + closes) * -np.expm1(-(shown + closes) * horizon)
        result[:, column] = 1 - np.exp(-expected) * (1 - np.where(state.open, at_once, 0.0))
    return result


def _tip_in_panel(desire: Real) -> Real:
    return behaviour.PANEL_TIP * desire + behaviour.PANEL_IMPULSE * (desire > 0)


def _panel_closes(age_s: Real) -> Real:
    """(n,) rate at which an open panel goes: closed, or because its viewer leaves, as so many do at once."""
    stays = behaviour.still_watching(age_s + behaviour.PANEL_S) / behaviour.still_watching(age_s)
    return (1 - np.log(stays)) / behaviour.PANEL_S


def _faded(state: State, seconds: float) -> State:
    """Return the state to expect `seconds` later."""
    usual_heat = state.talk * behaviour.HEAT_FADE_S
    usual_excited = 1 / (1 - behaviour.BRANCHING)
    fade_s = behaviour.EXCITE_FADE_S * usual_excited  # slower than a tip's own effect: tips bring tips
    return state._replace(
        excited=usual_excited + (state.excited - usual_excited) * np.exp(-seconds / fade_s),
        age_s=state.age_s + seconds,
        heat=usual_heat + (state.heat - usual_heat) * np.exp(-seconds / behaviour.HEAT_FADE_S),
        warm=state.warm * np.exp(-seconds / behaviour.WARM_FADE_S),
    )
