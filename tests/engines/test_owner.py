"""The process that has the engine: whoever comes to it, it goes on answering the others. Here it is a thread."""

from __future__ import annotations

import contextlib
import select
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from engines import owner
from engines.cpu import OnnxModel
from engines.in_place import OneByOne
from engines.model import Scores
from engines.owner import ANSWER, BATCH, MOST, About, Hello, Owner
from engines.segment import Segment
from tests.engines import small_models

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="shares memory as Linux does")

ARTIFACT = small_models.artifact()
#: For tests of what a model that scores in place can do only.
IN_PLACE = pytest.mark.parametrize("model", ["in place"], indirect=True)


class Worker:
    """A connection to an owner, and the memory that goes with it."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(20)
        self.socket.connect(str(path))
        self.segment = Segment(ARTIFACT.manifest, 16, 2)

    def hello(self, words: bytes | None = None) -> None:
        socket.send_fds(self.socket, [words or msgspec.json.encode(Hello(16, 2))], [self.segment.fd])

    def greet(self, words: bytes | None = None) -> bytes:
        """Say hello and return the answer, which is empty if the owner hung up."""
        self.hello(words)
        return self.heard()

    def ask(self, at: int, n: int) -> bytes:
        self.socket.send(BATCH.pack(at, n))
        return self.heard()

    def heard(self) -> bytes:
        try:
            return self.socket.recv(MOST)
        except ConnectionResetError:  # it hung up without having read all
            return b""

    def close(self) -> None:
        self.socket.close()
        self.segment.close()


class Careful(OnnxModel):
    """Scores in place, two batches at a time, and has something to prepare as long as `left` says so."""

    depth = 2

    def __init__(self) -> None:
        super().__init__(ARTIFACT)
        self._one_by_one = OneByOne(self)
        self.left: dict[int, Callable[[], bool]] = {}  # by the turn in which a segment came
        self.came: list[Segment] = []
        self.under_way = self.answered = 0

    def register(self, segment: Segment) -> Segment:
        self.came.append(segment)
        return segment

    def prepare(self, segment: Segment) -> bool:
        assert not self.under_way
        left = self.left.get(self.came.index(segment))
        return left is not None and left()

    def launch_at(self, segment: Segment, at: int, n: int) -> None:
        self._one_by_one.launch_at(segment, at, n)
        self.under_way += 1

    def finish(self, ticket: None) -> None:
        self.under_way -= 1
        self.answered += 1

    def unregister(self, segment: Segment) -> None:
        assert not self.under_way
        assert segment.places, "it is still there"


class Door:
    """An owner at work, and workers that come to it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._came: list[Worker] = []

    @property
    def first(self) -> Worker:
        return self._came[0]

    def worker(self) -> Worker:
        self._came.append(Worker(self._path))
        return self._came[-1]

    def leave(self) -> None:
        for worker in self._came:
            worker.close()


@pytest.fixture(params=["one by one", "in place"])
def model(request: pytest.FixtureRequest) -> OnnxModel:
    """What the owner runs."""
    return Careful() if request.param == "in place" else OnnxModel(ARTIFACT)


@pytest.fixture
def careful(model: OnnxModel) -> Careful:
    """The model, for what only one of them does."""
    assert isinstance(model, Careful)
    return model


@pytest.fixture
def door(model: OnnxModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    """Open a door with one worker inside; the owner ends with the last."""
    monkeypatch.setattr(owner, "_LONELY_S", 20.0)
    folder = Path(tempfile.mkdtemp(prefix="owner-", dir="/tmp"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(folder / "s"))
        listener.listen()
        listener.setblocking(False)
        made = Door(folder / "s")
        first = made.worker()
        running = threading.Thread(target=Owner(model, listener).run)
        running.start()
        assert msgspec.json.decode(first.greet(), type=About).max_batch
        yield made
        assert first.ask(0, 1) == ANSWER.pack(0, False), "it goes on answering"
        monkeypatch.setattr(owner, "_LONELY_S", 0.0)
        made.leave()
        running.join(20)
        assert not running.is_alive()
    shutil.rmtree(folder)


def shared_memories() -> int:
    """Count the descriptors of memory that this process holds, the owner's and the workers'."""
    descriptors = Path("/proc/self/fd")
    found = 0
    for each in descriptors.iterdir():
        with contextlib.suppress(FileNotFoundError):  # the owner's thread has closed it meanwhile
            found += "memfd:tipstream" in str(each.readlink())
    return found


def test_whoever_says_nothing_keeps_nobody_waiting(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "_HELLO_S", 3600.0)
    door.worker()
    talkative = door.worker()
    assert talkative.greet()
    for place in talkative.segment.places:
        place.features[:], place.history[:] = 0.5, 0.25
    assert talkative.ask(1, 3) == ANSWER.pack(1, False)
    expected = OnnxModel(ARTIFACT).infer(
        talkative.segment.places[1].features[:3], talkative.segment.places[1].history[:3]
    )
    np.testing.assert_array_equal(talkative.segment.places[1].p_tip[:3], expected.p_tip)


def test_whoever_says_nothing_is_sent_away(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "_HELLO_S", 0.05)
    assert door.worker().heard() == b""


@pytest.mark.parametrize(
    "hello",
    [
        b"hello?",
        b'{"most_rows": -1, "places": 1}',
        b'{"most_rows": 1, "places": 0}',
        b'{"most_rows": 99999999, "places": 1}',
        b'{"most_rows": 60000, "places": 60000}',
    ],
)
def test_whoever_says_nonsense_is_sent_away_with_what_it_brought(door: Door, hello: bytes) -> None:
    stranger = door.worker()
    before = shared_memories()
    assert stranger.greet(hello) == b""
    assert shared_memories() == before


def test_whoever_leaves_before_the_answer_leaves_nothing(door: Door) -> None:
    before = shared_memories()
    stranger = door.worker()
    stranger.socket.shutdown(socket.SHUT_RD)
    stranger.greet()
    stranger.close()
    assert door.worker().greet(), "by now it has seen to the one before"
    assert shared_memories() == 2 * before, "this one's, beside the one's who was there"


@pytest.mark.parametrize("batch", [(2, 1), (0xFFFF, 1), (0, 17), (0, 0)])
def test_a_batch_that_lies_nowhere_is_not_looked_for(door: Door, batch: tuple[int, int]) -> None:
    worker = door.worker()
    assert worker.greet()
    assert worker.ask(*batch) == b""


@IN_PLACE
def test_others_are_answered_while_a_newcomer_is_prepared_for(door: Door, careful: Careful) -> None:
    before = careful.answered
    careful.left[1] = lambda: careful.answered == before
    newcomer = door.worker()
    newcomer.hello()
    while len(careful.came) < 2:
        time.sleep(0.001)
    assert select.select([newcomer.socket], [], [], 0) == ([], [], [])
    assert door.first.ask(0, 1) == ANSWER.pack(0, False)
    assert newcomer.heard()
    assert newcomer.ask(0, 1) == ANSWER.pack(0, False)


def test_a_newcomer_is_prepared_for_by_an_owner_that_is_never_idle(
    door: Door, model: OnnxModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered: list[int] = []  # of the others, before each step
    if isinstance(model, Careful):
        careful = model

        def step() -> bool:
            answered.append(careful.answered)
            return len(answered) < 4

        careful.left[1] = step
    infer, enough = model.infer, threading.Event()

    def again(*rows: NDArray[np.float32]) -> Scores:
        if not enough.is_set():  # the next waits when this one is done: the owner is never idle
            door.first.socket.send(BATCH.pack(0, 1))
        return infer(*rows)

    monkeypatch.setattr(model, "infer", again)
    monkeypatch.setattr(owner, "_PREPARE_S", 10.0)
    monkeypatch.setattr(owner, "_STEP_S", 0.2)
    door.first.socket.send(BATCH.pack(0, 1))
    newcomer, began = door.worker(), time.monotonic()
    newcomer.hello()
    while newcomer.socket not in select.select([newcomer.socket, door.first.socket], [], [])[0]:
        assert door.first.heard() == ANSWER.pack(0, False)
    assert time.monotonic() - began < 5
    assert len(set(answered)) == len(answered), "they go on being answered between steps"
    enough.set()
    while select.select([door.first.socket], [], [], 0.2)[0]:
        assert door.first.heard() == ANSWER.pack(0, False)


@IN_PLACE
def test_a_newcomer_is_welcomed_even_if_there_is_never_time(
    door: Door, careful: Careful, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, "_PREPARE_S", 0.05)
    careful.left[1] = lambda: True
    assert door.worker().greet()


@IN_PLACE
def test_whoever_asks_before_it_is_welcomed_is_sent_away(door: Door, careful: Careful) -> None:
    careful.left[1] = lambda: True
    newcomer = door.worker()
    newcomer.hello()
    assert newcomer.ask(0, 1) == b""


@IN_PLACE
def test_a_newcomer_that_leaves_leaves_nothing(door: Door, careful: Careful) -> None:
    careful.left[1] = lambda: True
    before = shared_memories()
    newcomer = door.worker()
    newcomer.hello()
    newcomer.close()
    assert door.worker().greet()
    assert shared_memories() == 2 * before, "this one's, beside the one's who was there"
