"""Ports that are given stay free until their server asks for them."""

import contextlib
import socket

import pytest

from scorer import ports
from scorer.ports import LISTENING, free_port


def test_it_can_be_listened_on() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", free_port()))


def test_none_is_given_twice_though_nobody_listens_on_it_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    row = range(LISTENING.start, LISTENING.start + 20)
    monkeypatch.setattr(ports, "LISTENING", row)
    monkeypatch.setattr(ports, "_TRIES", len(row))
    monkeypatch.setattr(ports, "_given", set[int]())
    given = list[int]()
    with contextlib.suppress(OSError):  # after the last of them
        for _ in range(2 * len(row)):
            given.append(free_port())
    assert given
    assert len(set(given)) == len(given)


def test_one_in_use_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = free_port()
    monkeypatch.setattr(ports, "LISTENING", range(taken, taken + 1))
    monkeypatch.setattr(ports, "_TRIES", 1)
    monkeypatch.setattr(ports, "_given", set[int]())
    with socket.create_server(("127.0.0.1", taken)), pytest.raises(OSError, match="all in use"):
        free_port()


def test_outgoing_connections_never_get_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        for _ in range(50):
            with socket.create_connection(server.getsockname()) as connection:
                assert connection.getsockname()[1] not in LISTENING
