"""A process that is asked one thing: whatever it does, the answer comes in time and nothing is left of it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from engines.child import Ended, converse, how_ended, missing, own
from engines.model import ModelError


def ask(script: str, request: bytes = b"", *, timeout_s: float = 20.0) -> tuple[Ended, list[bytes]]:
    heard: list[bytes] = []
    return converse((sys.executable, "-c", script), request, timeout_s=timeout_s, heard=heard.append), heard


def gone(pid: int) -> bool:
    """Whether a process has ended, or will at once."""
    for _ in range(200):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 0)
            with contextlib.suppress(FileNotFoundError):
                if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                    return True
            time.sleep(0.01)  # the kernel is at it
            continue
        return True
    return False


def test_a_request_of_any_size_is_answered_line_by_line() -> None:
    request = bytes(range(256)) * 20_000
    ended, heard = ask(
        "import sys; n = len(sys.stdin.buffer.read()); print(n); print('two', flush=True); sys.exit(3)", request
    )
    assert heard == [b"5120000", b"two"]
    assert ended == Ended(3, "it said nothing")
    assert ended.how == "ended with status 3"


def test_the_last_words_are_the_last_line_of_standard_error() -> None:
    ended, _ = ask("import sys; sys.exit('first\\nlast one')")
    assert ended == Ended(1, "last one")


def test_a_crash_is_named_by_its_signal() -> None:
    ended, _ = ask("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert ended.how == "was killed by signal 11 (SIGSEGV)"


def test_signals_without_a_name_are_told_as_well() -> None:
    assert how_ended(-40) == "was killed by signal 40 (a real-time one)"


def test_a_child_that_never_reads_or_answers_is_stopped_in_time_with_its_own_children() -> None:
    script = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    ended, heard = ask(script, b"x" * 1_000_000, timeout_s=8.0)
    assert ended.status is None
    assert gone(int(heard[0]))


def test_a_child_that_closes_its_pipes_and_goes_on_is_stopped() -> None:
    ended, _ = ask("import os, time; os.closerange(0, 3); time.sleep(60)", timeout_s=1.0)
    assert ended.status is None


def test_a_command_that_cannot_be_started_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"missing cannot be started \(No such file or directory\)\. Look at"):
        converse((str(tmp_path / "missing"),), b"", timeout_s=1.0, heard=lambda line: None)


def test_an_exception_here_leaves_nothing_there() -> None:
    def interrupt(line: bytes) -> None:
        raise KeyboardInterrupt(line.decode())

    command = (sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)")
    with pytest.raises(KeyboardInterrupt) as caught:
        converse(command, b"", timeout_s=20.0, heard=interrupt)
    assert gone(int(str(caught.value)))


@pytest.mark.skipif(sys.platform != "linux", reason="leashes are Linux's")
def test_a_leashed_module_gets_its_arguments_and_ends_with_the_one_that_started_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tells = "import os, sys, time; print(os.getpid(), sys.argv[1], flush=True); time.sleep(60)"
    (tmp_path / "tells.py").write_text(tells)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    outer = (
        "import os, signal, subprocess\n"
        "from engines.child import leashed\n"
        "child = subprocess.Popen([*leashed('tells'), 'this'], stdout=subprocess.PIPE)\n"
        "print(child.stdout.readline().decode(), flush=True, end=''); os.kill(os.getpid(), signal.SIGKILL)"
    )
    _, heard = ask(outer)
    told, argument = heard[0].split()
    assert argument == b"this"
    assert gone(int(told))


@pytest.mark.skipif(sys.platform != "linux", reason="leashes are Linux's")
def test_a_leashed_process_ends_with_the_one_that_started_it() -> None:
    inner = "from engines.child import leash; import os, time; leash(); print(os.getpid(), flush=True); time.sleep(60)"
    outer = (
        "import os, signal, subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {inner!r}], stdout=subprocess.PIPE)\n"
        "print(child.stdout.readline().decode(), flush=True, end=''); os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended, heard = ask(outer)
    assert ended.status == -signal.SIGKILL
    assert gone(int(heard[0]))


def test_progress_is_told_at_least_once_a_second() -> None:
    ticks: list[float] = []
    converse(
        (sys.executable, "-c", "import time; time.sleep(1.2)"),
        b"",
        timeout_s=20.0,
        heard=lambda line: None,
        tick=ticks.append,
    )
    assert len(ticks) >= 2
    assert ticks == sorted(ticks)


def test_our_modules_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    heard: list[bytes] = []
    ended = converse((*own("engines.cli"), "--help"), b"", timeout_s=30.0, heard=heard.append)
    assert ended.status == 0
    assert heard[0].startswith(b"usage: tipstream-engine")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("ModuleNotFoundError: No module named 'tensorrt'", "TensorRT engines need tensorrt, which is not installed"),
        ("ModuleNotFoundError: No module named 'cuda.bindings'", "pip install 'tipstream[gpu]'"),
        ("ImportError: libnvinfer.so.8: cannot open shared object file: No such file", "Install TensorRT whole"),
        ("Killed", None),
    ],
)
def test_what_is_missing_is_told_with_the_way_to_get_it(words: str, told: str | None) -> None:
    found = missing(words)
    assert found is None if told is None else told in (found or "")
