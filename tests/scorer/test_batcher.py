from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from scorer.batcher import Batcher, Portion, Quantile, ServiceTimes
from scorer.lease import Lease

NOW = 1_000_000.0
DEADLINE = 50.0


class Rec(NamedTuple):
    offset: int
    timestamp: int
    key: bytes | None = b"k"
    value: bytes | None = b"v"


def lease(partition: int, *ages_ms: float) -> Lease:
    held = Lease(partition, epoch=1, stored=0, publish_from=0)
    held.read([Rec(i, int(NOW - age)) for i, age in enumerate(ages_ms)])
    return held


def batcher(max_batch: int = 8, *, publish_late: bool = False, **expected_ms: float) -> Batcher:
    times = ServiceTimes([1, 8, 64])
    for bucket, ms in expected_ms.items():
        for _ in range(256):
            times.observe(int(bucket[1:]), ms)
    return Batcher(times, max_batch=max_batch, deadline_ms=DEADLINE, publish_late=publish_late)


def flat(portions: list[Portion]) -> list[tuple[int, int, bool]]:
    return [
        (portion.lease.partition, record.offset, shed)
        for portion in portions
        for record, shed in zip(portion.records, portion.shed, strict=True)
    ]


def test_takes_all_there_is_at_once() -> None:
    assert flat(batcher().take([lease(0, 3), lease(1, 2, 1)], NOW)) == [(0, 0, False), (1, 0, False), (1, 1, False)]


def test_nothing_queued_is_no_batch() -> None:
    assert batcher().take([lease(0)], NOW) == []


def test_the_most_urgent_partition_goes_first_when_not_all_fit() -> None:
    taken = flat(batcher(max_batch=3).take([lease(0, 1, 1, 1), lease(1, 30, 29, 28)], NOW))
    assert sorted(taken) == [(1, 0, False), (1, 1, False), (1, 2, False)]


def test_sheds_what_cannot_be_acknowledged_in_time() -> None:
    assert flat(batcher().take([lease(0, 60, 48, 10)], NOW)) == [(0, 0, True), (0, 1, True), (0, 2, False)]


def test_publish_late_sheds_nothing() -> None:
    assert flat(batcher(publish_late=True).take([lease(0, 9_000, 10)], NOW)) == [(0, 0, False), (0, 1, False)]


def test_shed_records_take_no_place_from_those_that_can_make_it() -> None:
    taken = flat(batcher(max_batch=2).take([lease(0, 90, 90, 90, 1, 1, 1)], NOW))
    assert [shed for _, _, shed in taken] == [True, True, True, False, False]


def test_a_batch_stays_bounded_when_everything_is_late() -> None:
    assert len(flat(batcher(max_batch=2).take([lease(0, *[90] * 100)], NOW))) == 8


def test_an_urgent_head_gets_a_smaller_bucket() -> None:
    slow = batcher(max_batch=64, b1=2, b8=8, b64=30)
    assert len(flat(slow.take([lease(0, *[35] * 40)], NOW))) == 8  # 15 ms left: the bucket of 64 would take 30
    assert len(flat(slow.take([lease(0, *[5] * 40)], NOW))) == 40


def test_estimates_beyond_the_budget_do_not_shed_what_is_fresh() -> None:
    slow = batcher(b1=400, b8=400, b64=400)
    assert flat(slow.take([lease(0, 40, 3)], NOW)) == [(0, 0, True), (0, 1, False)]


def test_service_times_follow_a_high_quantile() -> None:
    quantile = Quantile(5.0)
    for i in range(256):
        quantile.observe(10.0 if i % 5 == 0 else 1.0)
    assert quantile.value == 10.0


@given(
    st.lists(st.lists(st.integers(0, 100), max_size=30), min_size=1, max_size=4),
    st.integers(1, 16),
    st.booleans(),
)
def test_every_record_is_taken_once_in_offset_order(ages: list[list[int]], max_batch: int, late: bool) -> None:
    leases = [lease(p, *partition) for p, partition in enumerate(ages)]
    maker = batcher(max_batch=max_batch, publish_late=late)
    seen: dict[int, list[int]] = {p: [] for p in range(len(ages))}
    while portions := maker.take(leases, NOW):
        assert sum(not shed for _, _, shed in flat(portions)) <= max_batch
        for partition, offset, _ in flat(portions):
            seen[partition].append(offset)
    assert seen == {p: list(range(len(partition))) for p, partition in enumerate(ages)}
