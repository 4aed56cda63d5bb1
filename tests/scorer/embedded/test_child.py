"""A child says when it is ready, is stopped with all it started, and never outlives its parent."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scorer.embedded.child import Child, ChildError

READY = 'print(\'{"address": "here"}\', flush=True); '


def python(code: str) -> list[str]:
    return [sys.executable, "-c", f"import os, signal, subprocess, sys, time; {code}"]


def wait_ended(pid: int, timeout: float = 10.0) -> None:
    """Return when the process has ended, be it our child or not; AssertionError when it lives on."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    with selectors.DefaultSelector() as selector, os.fdopen(descriptor) as file:
        selector.register(file, selectors.EVENT_READ)
        assert selector.select(timeout), f"process {pid} lives on"


def test_announces_and_ends_when_asked() -> None:
    with Child(python(READY + "time.sleep(60)"), announces=True) as child:
        assert child.ready() == {"address": "here"}
        assert child.running
        assert child.stop() == -signal.SIGTERM
        assert not child.running
        assert child.stop() == -signal.SIGTERM  # again, harmless


def test_what_will_not_end_is_killed_with_what_it_started() -> None:
    code = "signal.signal(signal.SIGTERM, signal.SIG_IGN); p = subprocess.Popen(['sleep', '60']); "
    child = Child(python(code + "print('{\"grandchild\": %d}' % p.pid, flush=True); time.sleep(60)"), announces=True)
    grandchild = child.ready()["grandchild"]
    assert child.stop(grace=0.1) == -signal.SIGKILL
    wait_ended(grandchild)


def test_one_that_fails_is_quoted(tmp_path: Path) -> None:
    child = Child(python("sys.exit('no such folder')"), announces=True, log=tmp_path / "log")
    with pytest.raises(ChildError, match=r"ended before it was ready \(exit status 1\)\. no such folder"):
        child.ready()


def test_one_that_says_nothing_is_stopped() -> None:
    child = Child(python("time.sleep(60)"), announces=True)
    with pytest.raises(ChildError, match=r"was not ready within 0\.1 s"):
        child.ready(timeout=0.1)
    assert not child.running


def test_one_that_says_something_else_is_stopped() -> None:
    child = Child(python("print('hello', flush=True); time.sleep(60)"), announces=True)
    with pytest.raises(ChildError, match="not a JSON object"):
        child.ready()
    assert not child.running


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's leash exists on Linux only")
def test_a_killed_parent_takes_its_child_along() -> None:
    code = "from scorer.embedded.child import Child; child = Child(['sleep', '60']); print(child.pid, flush=True); "
    with subprocess.Popen(python(code + "time.sleep(60)"), stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(pid, 0)
        parent.kill()
    wait_ended(pid)
