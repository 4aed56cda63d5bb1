"""Rooms are asked for when something of them is to be known, and seldom else."""

from features.watch import RoomWatch


def test_a_room_is_needed_once_a_round() -> None:
    watch = RoomWatch()
    assert [watch.needs("a"), watch.needs("a"), watch.needs("b")] == [True, False, True]
    watch.skip()
    assert [watch.needs("a"), watch.needs("a")] == [True, False]


def test_a_room_that_had_events_is_asked_for_in_the_next_four_rounds() -> None:
    watch = RoomWatch()
    watch.saw("a")
    assert [watch.next_round() for _ in range(5)] == [["a"], ["a"], ["a"], ["a"], []]


def test_a_room_that_is_asked_for_with_the_round_is_not_needed() -> None:
    watch = RoomWatch()
    watch.saw("a")
    while watch.next_round():
        assert not watch.needs("a")
    assert watch.needs("a")


def test_a_busy_room_is_asked_for_a_little_longer_and_not_for_ever() -> None:
    watch = RoomWatch()
    for _ in range(10):
        watch.saw("a")
        watch.saw("a")
        assert watch.next_round() == ["a"]
    assert [watch.next_round() for _ in range(8)] == [["a"]] * 7 + [[]]
