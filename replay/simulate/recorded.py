"""Simulated traffic as records: what a recording holds and what Kafka is sent."""

from typing import Final

from features.events import encode
from replay.recording import Record
from replay.simulate.simulator import Moment
from replay.simulate.traffic import Traffic

CHANCE_HEADER: Final = "p_tip"
"""Header with the true chance of a tip within 60 and 600 s, as a JSON list; only with `Traffic.truth`."""


def records(moment: Moment, traffic: Traffic) -> list[Record]:
    """Return a moment's events as records: keyed by viewer (room-level ones by room), never yet on Kafka."""
    made = [
        Record(
            (event.viewer_id or event.room_id).encode(), encode(event), None, None, None, arrive_ms, event.event_time_ms
        )
        for event, arrive_ms in zip(moment.events, moment.arrive_ms.tolist(), strict=True)
    ]
    if traffic.truth:
        return [
            record._replace(headers=[(CHANCE_HEADER, b"[%.7f,%.7f]" % tuple(chance))]) if event.viewer_id else record
            for record, event, chance in zip(made, moment.events, moment.chance.tolist(), strict=True)
        ]
    return made
