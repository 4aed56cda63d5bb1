"""Small, nasty traffic: few ids, all types, every way in which time, repeats and gifts can go wrong."""

from __future__ import annotations

from typing import Final

import numpy as np
from hypothesis import strategies as st

from features.events import BADGES, ROOM_TYPES, VIEWER_TYPES, Event
from tests.features.harness import Record

START: Final = 1_700_000_000_000
_GAPS: Final = (
    0,
    1,
    900,
    5_000,
    9_999,
    30_000,
    61_000,
    400_000,
    3_700_000,
    8_000_000,
    90_000_000,
    700_000_000,
    6 * 10**9,
)
_LATE: Final = (0, 0, 0, 0, 1, 9_000, 65_000, 310_000, 4_000_000, 100_000_000, 7 * 10**9)
_TYPES: Final = (
    *VIEWER_TYPES,
    *ROOM_TYPES,
    *("gift",) * 12,
    *("gift_reversal",) * 5,
    *("comment", "raid") * 4,
    "like",
    "paid_chat",
)


@st.composite
def streams(draw: st.DrawFn, *, max_size: int = 50, partitions: int = 2) -> list[Record]:
    """Draw a stream of records; a viewer's events are all in one partition."""
    now = START
    records: list[Record] = []
    for number in range(draw(st.integers(1, max_size))):
        now += draw(st.sampled_from(_GAPS))
        if records and draw(st.integers(0, 7)) == 7:  # an upstream repeat, perhaps with another time
            old = draw(st.sampled_from(records))
            records.append(old._replace(broker_ms=now))
            continue
        kind = draw(st.sampled_from(_TYPES))
        viewer = draw(st.integers(0, 3))
        streamer = draw(st.integers(0, 1))
        room = f"room-{streamer}-{draw(st.integers(0, 1))}"
        late = draw(st.sampled_from(_LATE))
        ahead = draw(st.sampled_from((0, 0, 0, 0, 0, 0, 1_500, 2_001, 10**10)))
        event = Event(f"event-{number}", kind, max(1, now - late + ahead), room, f"streamer-{streamer}")
        broker = draw(st.sampled_from((now, now, now, 0, -1)))
        if kind in ROOM_TYPES:
            event.viewers = draw(st.sampled_from((None, 0, 50)))
            event.online = draw(st.sampled_from((None, None, 700)))
            records.append(Record(event, draw(st.integers(0, partitions - 1)), broker))
            continue
        event.viewer_id = f"viewer-{viewer}"
        event.count = draw(st.sampled_from((None, None, 0, 3, 100_000)))
        event.text_len = draw(st.sampled_from((None, 0, 17)))
        event.badges = draw(st.sampled_from((None, (), BADGES[:1], (*BADGES[2:], "a new badge"))))
        event.fan_level = draw(st.sampled_from((None, 12)))
        event.watch_ms = draw(st.sampled_from((None, 30_000)))
        if kind in ("gift", "paid_chat", "gift_reversal", "recharge", "subscribe"):
            event.amount_minor = draw(st.sampled_from((0, 1, 100, 101, 25_000, 10**12)))
        if kind in ("gift", "gift_reversal") or (kind == "paid_chat" and draw(st.booleans())):
            event.gift_tx_id = f"tx-{draw(st.integers(0, 4))}"
        if kind == "gift":
            event.coin_type = draw(st.sampled_from(("paid", "paid", "paid", "free", "bag")))
            event.combo_id = draw(st.sampled_from((None, None, "combo-0", "combo-1")))
        records.append(Record(event, viewer % partitions, broker))
    return records


def random_stream(seed: int, *, size: int, viewers: int, skew: float) -> list[Record]:
    """Return a longer stream with Zipf viewers and rooms, repeats, lateness, combos and reversals."""
    rng = np.random.default_rng(seed)
    now = START
    records: list[Record] = []
    for number in range(size):
        now += int(rng.choice(_GAPS[:9], p=(0.1, 0.1, 0.2, 0.2, 0.1, 0.1, 0.1, 0.05, 0.05)))
        if records and rng.random() < 0.05:
            records.append(records[-int(rng.integers(1, min(len(records), 40) + 1))])
            continue
        viewer = int(min(rng.zipf(skew), viewers))
        room = int(min(rng.zipf(skew), 4))
        kind = str(rng.choice(("comment", "like", "heartbeat", "gift", "gift_reversal", "subscribe", "paid_chat")))
        late = int(rng.choice((0, 0, 0, 0, 5_000, 70_000, 4_000_000)))
        event = Event(f"event-{number}", kind, now - late, f"room-{room}", f"streamer-{room % 2}", f"viewer-{viewer}")
        if rng.random() < 0.1:
            event.type, event.viewer_id = str(rng.choice(("raid", "room_stats"))), None
            event.viewers, event.online = int(rng.integers(0, 500)), int(rng.integers(0, 500))
            records.append(Record(event, viewer % 2, now))
            continue
        if kind in ("gift", "gift_reversal", "paid_chat"):
            event.amount_minor = int(rng.integers(0, 100_000))
            event.gift_tx_id = f"tx-{rng.integers(0, 12)}"
        if kind == "gift":
            event.coin_type = "paid" if rng.random() < 0.8 else "free"
            event.combo_id = f"combo-{rng.integers(0, 6)}" if rng.random() < 0.5 else None
        records.append(Record(event, viewer % 2, now))
    return records
