"""Who watches, and where tips are to be expected."""

from __future__ import annotations

import pytest

from scorer.demo.board import Board
from tests.scorer.demo.made import score


def test_the_likeliest_come_first() -> None:
    board = Board()
    board.see_scores([score(0, 0.1, "a"), score(0, 0.3, "b"), score(0, 0.2, "c")])
    assert [one.score.viewer_id for one in board.likeliest(2)] == ["b", "c"]


def test_the_latest_score_counts_by_event_time() -> None:
    board = Board()
    board.see_scores([score(10, 0.1), score(5, 0.9)])
    assert board.likeliest(1)[0].score.p_tip["600"] == pytest.approx(0.1)


def test_a_heartbeat_does_not_hide_what_was_done() -> None:
    board = Board()
    board.see_scores([score(0, type_="heartbeat")])
    assert board.likeliest(1)[0].act == "watches"
    board.see_scores([score(1, type_="gift"), score(2, type_="heartbeat")])
    assert board.likeliest(1)[0].act == "sent a gift"


def test_who_leaves_or_falls_silent_is_gone() -> None:
    board = Board()
    board.see_scores([score(0, viewer="a"), score(0, viewer="b"), score(5, viewer="a", type_="leave")])
    assert [one.score.viewer_id for one in board.likeliest(9)] == ["b"]
    board.see_scores([score(91, viewer="c")])
    assert [one.score.viewer_id for one in board.likeliest(9)] == ["c"]


def test_rooms_by_the_tips_to_expect() -> None:
    board = Board()
    board.see_scores([score(0, 0.1, "a", "r1"), score(0, 0.1, "b", "r1"), score(0, 0.15, "c", "r2")])
    first, second = board.hottest(5)
    assert (first.room_id, first.watching) == ("r1", 2)
    assert first.expected == pytest.approx(0.2)
    assert (second.room_id, second.watching) == ("r2", 1)
