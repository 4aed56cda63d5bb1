"""Benchmark events are valid, unique, and carry the time they were meant to leave."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from features.events import Event, decode
from tests.benchmarks.traffic import VIEWERS, crowd, sent_at, simulated, source, template, zipf

NOW_NS = 1_790_000_000_123_456_789


def test_stamped_events_pass_the_contract() -> None:
    templates = [template(event) for event in itertools.islice(zipf(seed=1), 500)]
    values = [each.stamped(NOW_NS + i) for i, each in enumerate(templates)]
    decoded = decode(values, [each.key for each in templates])
    assert len(decoded.events) == 500
    assert [sent_at(event.event_id) for event in decoded.events] == [NOW_NS + i for i in range(500)]
    assert {event.event_time_ms for event in decoded.events} == {NOW_NS // 1_000_000}


def test_only_id_and_time_change() -> None:
    event = next(zipf(seed=2))
    (again,) = decode([template(event).stamped(NOW_NS)], [template(event).key]).events
    again.event_id, again.event_time_ms = event.event_id, event.event_time_ms
    assert again == event


def test_seeds_repeat_and_differ() -> None:
    first, again, other = (list(itertools.islice(zipf(seed), 50)) for seed in (1, 1, 2))
    assert first == again != other


def test_a_crowd_is_as_uneven_as_recorded_chat_and_nobody_in_it_is_a_crowd() -> None:
    events = Counter(event.viewer_id for event in itertools.islice(crowd(seed=1), 50_000))
    busiest = [count for _, count in events.most_common()]
    assert sum(busiest[: VIEWERS // 100]) / 50_000 == pytest.approx(0.49, abs=0.05)
    assert busiest[0] / 50_000 < 0.005


def test_events_without_a_viewer_expect_no_score() -> None:
    raid = Event(event_id="1", type="raid", event_time_ms=1, room_id="r", streamer_id="s", viewers=10)
    assert template(raid).key is None
    assert not template(raid).scored


def test_simulated_events_can_be_stamped() -> None:
    templates = [template(event) for event in itertools.islice(simulated(seed=1), 2_000)]
    values = [each.stamped(NOW_NS + i) for i, each in enumerate(templates)]
    assert len(decode(values, [each.key for each in templates]).events) == 2_000


def test_a_source_is_found_by_name() -> None:
    assert source("tests.benchmarks.traffic:zipf") is zipf
