"""How people behave, in numbers: the constants of the simulation, by subject, and where they come from.

Figures marked K are published for Kuaishou's KuaiLive set (arXiv 2508.05633 and open analyses of it), T are measured
on a recording of 1,554 Twitch broadcasts; the others are assumptions that no public source settles. Rates are per
second, times in seconds unless named otherwise.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

# A view's length: the published quantiles themselves, joined by straight lines in log time (K: P50 4.9 s, P90 1,026 s,
# P99 9,231 s, P(>10 s) 0.39, P(>100 s) 0.19, P(>1 h) 0.04; the mean of this curve is the published 514 s).
VIEW_SHARE: Final = np.array([0.0, 0.5, 0.61, 0.81, 0.90, 0.96, 0.99, 1.0])
VIEW_LOG_S: Final = np.log(np.array([0.5, 4.9, 10.0, 100.0, 1_026.0, 3_600.0, 9_231.0, 28_800.0]))
MEAN_VIEW_S: Final = 514.0
CUT_SHORT: Final = 0.87  # share of the watching that is left after broadcasts end under their viewers (measured here)

# A broadcast's length (T: P5 0.56 h, P50 4.1 h, P95 7.0 h), and the pause before the next one.
BROADCAST_SHARE: Final = np.array([0.0, 0.05, 0.5, 0.95, 1.0])
BROADCAST_S: Final = np.array([0.1, 0.56, 4.1, 7.0, 10.0]) * 3600
BROADCAST_LEFT_S: Final = 2.2 * 3600  # mean time that a broadcast under way still lasts
PAUSE_S: Final = 2.0 * 3600
LIVE_SHARE: Final = 0.65

# Arrivals: the rush when a broadcast opens, the four streamers that a viewer comes back to, raids.
RUSH: Final = 15.0
RUSH_FADE_S: Final = 60.0
FAVOURITES: Final = 4
FAVOURITE_SHARE: Final = np.array([0.35, 0.15, 0.08, 0.05])  # K: a viewer's first streamer has 35.6 % of the watching
RAID_CHANCE: Final = 0.4
RAID_FOLLOW: Final = 0.5

# What a viewer does while watching, apart from tipping. Talk and fondness are log-normal among those who have any
# (T: own gap between messages P50 69 s; K: 4 % of views have a comment, 3.7 % a like).
TALKERS: Final = 0.45
TALK: Final = 1 / 600
FOND: Final = 0.25
LIKE: Final = 1 / 300
SPREAD: Final = 1.2
FOLLOW: Final = 1.5e-4
UNFOLLOW: Final = 1e-5
SHARE: Final = 3e-5
FREE_GIFT: Final = 3e-5
PANEL: Final = 1e-4  # looking at the gifts out of curiosity

# Tipping: desire is a viewer's own rate times what happens now; `hazard.py` says how these meet.
NOMINAL_TIPS: Final = 0.02 / 3600  # per viewer-second, before chat, panel, excitement and history raise it
SPENDER_ALPHA: Final = 1.2  # T: Hill exponent of a user's spend 1.1-1.35
SPENDER_CAP: Final = 200.0
MOOD: Final = 0.7  # spread (log-normal) of what nobody can see
CHARM: Final = 0.5  # spread (log-normal) of how much a streamer is tipped
AFFINITY: Final = np.array([2.5, 1.5, 1.0, 1.0, 0.4])  # by favourite; last: any other streamer
LOYALTY: Final = 0.5  # each earlier tip to this streamer adds so much, up to
LOYALTY_CAP: Final = 6
REPEAT: Final = 1.3  # a tip in this view makes the next one likelier
SUBSCRIBER: Final = 1.5
DWELL_FLOOR: Final = 0.4  # desire right after entering, growing to 1 within
DWELL_S: Final = 600.0
HEAT: Final = 1.2  # what one's own comment adds, fading with
HEAT_FADE_S: Final = 90.0
WARM: Final = 6.0  # what one's own recharge multiplies by (plus 1), fading with
WARM_FADE_S: Final = 120.0
QUICK: Final = 0.3  # tips without opening the panel, per desire
PANEL_DESIRE: Final = 3.0  # panel openings per desire
PANEL_S: Final = 20.0  # mean time that a panel stays open
PANEL_TIP: Final = 40.0  # tips while the panel is open, per desire, and
PANEL_IMPULSE: Final = 5e-4
PANEL_DONE: Final = 0.9  # tips after which the panel is closed within seconds
PANEL_RECHARGE: Final = 4e-3
SUBSCRIBE: Final = 0.15  # subscriptions per desire
PAID_CHAT: Final = 0.05  # share of tips that are a paid message

# A room's tips excite tips (T: x7.7, x7.5, x5.8 of the usual in the next 30, 60, 300 s): a Hawkes process with
# BRANCHING tips following from each one, told to the viewers as a factor of at most EXCITED.
BRANCHING: Final = 0.3
EXCITE_FADE_S: Final = 200.0
EXCITED: Final = 15.0
# Tips by the broadcast's age (T: the opening half hour has 5-6 times the later rate).
OPENING_S: Final = np.array([0.0, 120.0, 1_200.0, 2_400.0, 4_800.0, 7_200.0])
OPENING: Final = np.array([1.4, 5.3, 5.3, 3.2, 1.6, 1.0])
PK_FACTOR: Final = 2.5
PK: Final = 0.25 / 3600
PK_LEAST_S: Final = 300.0
PK_MOST_S: Final = 600.0
RED_PACKET: Final = 0.1 / 3600
STATS_S: Final = 10.0
STATS_RATE: Final = LIVE_SHARE / STATS_S  # events per second and streamer

# The gift ladder in minor units (K: P50 2, 44 % are 1, 76 % at most 10, P90 88, P99 1,488, mean 83).
LADDER: Final = np.array([1, 2, 5, 10, 20, 52, 99, 199, 299, 520, 1_314, 3_000, 9_999, 30_000])
LADDER_SHARE: Final = np.array(
    [0.500, 0.100, 0.060, 0.105, 0.065, 0.060, 0.040, 0.025, 0.017, 0.010, 0.0095, 0.005, 0.0015, 0.0005]
)
WEALTH: Final = 0.7  # how far a viewer's means settle the rung
COMBO_PRICE: Final = 20  # gifts up to this price are sent in combos,
COMBO: Final = 0.15  # so often
REVERSAL: Final = 0.005

# Delivery: how late the late are, and how far apart the twice delivered.
LATE_S: Final = 20.0
LATEST_S: Final = 600.0
AGAIN_S: Final = 1.0


def view_s(share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Length of a view at quantiles in [0, 1)."""
    length_s: NDArray[np.float64] = np.exp(np.interp(share, VIEW_SHARE, VIEW_LOG_S))
    return length_s


def still_watching(age_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of views that last longer than `age_s`; never zero."""
    share: NDArray[np.float64] = np.maximum(
        1e-6, 1 - np.interp(np.log(np.maximum(age_s, 1e-3)), VIEW_LOG_S, VIEW_SHARE)
    )
    return share


def events_per_viewer_second(heartbeat_s: float) -> float:
    """Events that one watching viewer causes in a second, on average, tips left out (one event in thousands)."""
    spread = float(np.exp(SPREAD**2 / 2))
    acts = spread * (TALKERS * TALK + FOND * LIKE) + FOLLOW + SHARE + FREE_GIFT + 2 * PANEL
    return 1 / heartbeat_s + 2 / MEAN_VIEW_S + acts


def daily(time_ms: NDArray[Any] | float, peak_over_trough: float) -> NDArray[np.float64]:
    """Share of the day's traffic by the clock (UTC), as a factor: highest at 20:00, lowest at 08:00."""
    hour = np.asarray(time_ms) / 3_600_000 % 24
    factor: NDArray[np.float64] = np.exp(np.log(peak_over_trough) / 2 * np.cos(2 * np.pi * (hour - 20) / 24))
    return factor
