"""Score files and recordings made by hand, of which every figure is known."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from engines.manifest import Tier
from features.events import Event, encode
from replay.recording import Record, Writer
from replay.scores import About, Scores, ScoreWriter

T0 = 1_750_000_000_000
ABOUT = About("hand:1", "none", (60, 600), (Tier("none", 0), Tier("high", 0.5)), "hand.parquet")


def scores(path: Path, p: Sequence[float], *, first: int = 0, latency_us: int | None = None) -> Scores:
    """Events `e<first>`, ... of viewers `v<i>` a second apart in rooms of ten, the latter with these probabilities."""
    n = len(p)
    ids = range(first, first + n)
    with ScoreWriter(path, ABOUT) as writer:
        writer.write(
            [
                list(ids),
                [f"e{i}" for i in ids],
                [f"v{i}" for i in ids],
                [f"r{i // 10}" for i in ids],
                [T0 + i * 1_000 for i in ids],
                [0] * n,
                list(ids),
                [each / 2 for each in p],
                list(p),
                [round(100 * each) for each in p],
                pa.array(["high" if each >= 0.5 else "none" for each in p]).dictionary_encode(),
                pa.array(["full"] * n).dictionary_encode(),
                pa.array([latency_us] * n, pa.int64()),
            ]
        )
    return Scores.read(path)


def recording(path: Path, tips: Sequence[int], *, until_s: int = 10_000) -> Path:
    """Say that viewers `v<i>` tipped 100, half a minute after their event."""
    made = [
        Event(
            f"tip{i}", "gift", T0 + i * 1_000 + 30_000, f"r{i // 10}", "s", f"v{i}",
            gift_tx_id=f"x{i}", amount_minor=100, coin_type="paid",
        )
        for i in tips
    ]  # fmt: skip
    made.append(Event("last", "comment", T0 + until_s * 1_000, "r", "s", "v"))
    with Writer(path, source="made by hand") as writer:
        writer.write(
            [Record((e.viewer_id or "").encode(), encode(e), None, None, None, e.event_time_ms, None) for e in made]
        )
    return path
