"""When a model that fails is asked again."""

import pytest

from engines.breaker import Breaker


def state(breaker: Breaker) -> str:
    """A call, lest mypy should think that it cannot change."""
    return breaker.state


def opened(**options: float) -> Breaker:
    breaker = Breaker(failures=1, wait_s=1.0, **options)
    breaker.failed(0.0)
    return breaker


def outcomes(told: str) -> str:
    """State after answers that failed (x) or were good (.)."""
    breaker = Breaker(failures=3)
    for outcome in told:
        breaker.failed(0.0) if outcome == "x" else breaker.succeeded()
    return state(breaker)


def test_failures_in_a_row_open_it() -> None:
    assert (outcomes("xx"), outcomes("xxx")) == ("closed", "open")


def test_one_failure_in_twenty_is_forgiven_for_ever_and_one_in_ten_is_not() -> None:
    assert outcomes(("x" + 20 * ".") * 500) == "closed"
    assert outcomes(("x" + 10 * ".") * 4) == "closed"
    assert outcomes(("x" + 10 * ".") * 5) == "open"


def test_a_trial_comes_after_the_wait_and_closes_it() -> None:
    breaker = opened()
    assert [breaker.tries(now) for now in (0.0, 0.999, 1.0)] == [False, False, True]
    assert state(breaker) == "half-open"
    breaker.succeeded()
    assert state(breaker) == "closed"
    assert not breaker.tries(9.0)


def test_each_failed_trial_doubles_the_wait_up_to_a_limit_and_success_forgets_it() -> None:
    breaker = opened(longest_wait_s=4.0)
    now, waits = 0.0, []
    for _ in range(4):
        waits.append(next(wait for wait in (1.0, 2.0, 4.0, 8.0) if breaker.tries(now + wait)))
        now += waits[-1]
        breaker.failed(now)
    assert waits == [1.0, 2.0, 4.0, 4.0]
    assert breaker.tries(now + 4.0)
    breaker.succeeded()
    breaker.failed(now)
    assert breaker.tries(now + 1.0)


def test_what_failed_while_it_was_open_is_forgotten_once_it_is_closed() -> None:
    breaker = Breaker(failures=3)
    for _ in range(8):  # batches that were under way when the model ended
        breaker.failed(0.0)
    assert breaker.tries(1.0)
    breaker.succeeded()
    breaker.failed(1.0)
    assert state(breaker) == "closed"


def test_late_news_of_batches_from_before_changes_nothing_while_it_is_open() -> None:
    breaker = opened()
    breaker.succeeded()
    breaker.failed(0.5)
    breaker.trip(0.9)
    assert state(breaker) == "open"
    assert breaker.tries(1.0)


@pytest.mark.parametrize("state", ["closed", "half-open"])
def test_it_can_be_opened_without_counting(state: str) -> None:
    breaker = Breaker()
    if state == "half-open":
        breaker.trip(0.0)
        assert breaker.tries(1.0)
    breaker.trip(5.0)
    assert breaker.state == "open"
    assert not breaker.tries(5.9)
