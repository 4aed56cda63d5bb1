from features.engine import Changes
from scorer.lease import Lease, Progress
from tests.scorer.rig import say


def test_a_new_lease_is_settled() -> None:
    assert Lease(0, 1, 5, 5).settled.is_set()


def test_a_lease_is_settled_once_nothing_is_in_flight_unwritten_or_uncut() -> None:
    lease = Lease(0, 1, 5, 5)
    lease.begin()
    lease.begin()
    lease.read_to = 7
    assert not lease.settled.is_set()
    lease.end()
    lease.end()
    assert not lease.settled.is_set()
    lease.progress.append(Progress(7, 1, Changes()))
    lease.read_to = None
    lease.note()
    assert not lease.settled.is_set()
    lease.progress.clear()
    lease.note()
    assert lease.settled.is_set()


def test_records_that_wait_do_not_keep_it_from_being_settled() -> None:
    """The next owner reads them again."""
    lease = Lease(0, 1, 5, 5)
    lease.read([say(5), say(6)])
    assert [record.offset for record in lease.queue] == [5, 6]
    assert lease.settled.is_set()


def test_a_lost_lease_keeps_nothing_and_nobody_waiting() -> None:
    lease = Lease(0, 1, 5, 5)
    lease.begin()
    lease.read([say(5)])
    lease.progress.append(Progress(7, 1, Changes()))
    lease.lose()
    assert lease.lost
    assert lease.settled.is_set()
    assert not lease.queue
    assert not lease.progress
    lease.end()
    assert lease.settled.is_set()
