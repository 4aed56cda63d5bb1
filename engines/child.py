"""A process that is asked one thing and answers in lines: what may crash, hang or run out of memory runs there."""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from engines.model import ModelError

_STDERR_KEPT: Final = 4000
_PR_SET_PDEATHSIG: Final = 1
_SIGNALS: Final = {number.value: number.name for number in signal.Signals}


class Ended(NamedTuple):
    """How it ended."""

    status: int | None
    """Exit status, negative for a signal; None if it ran out of time and was killed."""
    last_words: str
    """Last line that it wrote to standard error."""

    @property
    def how(self) -> str:
        """The same as half a sentence."""
        return "was stopped" if self.status is None else how_ended(self.status)


def how_ended(status: int) -> str:
    """Return what a process's exit status says, as half a sentence."""
    if status >= 0:
        return f"ended with status {status}"
    return f"was killed by signal {-status} ({_SIGNALS.get(-status, 'a real-time one')})"


def converse(
    command: Sequence[str],
    request: bytes,
    *,
    timeout_s: float,
    heard: Callable[[bytes], None],
    tick: Callable[[float], None] = lambda seconds: None,
) -> Ended:
    """Start a command, write the request to its standard input, and follow it to its end.

    `heard` gets every line of its standard output, `tick` the seconds since the start, at least once a second. However
    this call ends, an exception included, the process is gone afterwards; what it started goes with it if that is in
    its group or on a leash. Raises ModelError if the command cannot be started.
    """
    began = time.monotonic()
    try:
        started = subprocess.Popen(  # noqa: S603  our own modules, run by our own interpreter
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
            start_new_session=True,  # a group of its own, so that all of it can be killed
        )
    except OSError as error:
        raise ModelError(
            f"{command[0]} cannot be started ({error.strerror}). Look at the machine's memory, and at how many "
            "processes and open files it allows."
        ) from error
    with started as process:
        try:
            errors = follow(process, request, until=began + timeout_s, heard=heard, tick=lambda at: tick(at - began))
            if errors is None:
                return Ended(None, "")
            try:
                process.wait(max(timeout_s - (time.monotonic() - began), 0.1))
            except subprocess.TimeoutExpired:  # it closed its pipes and goes on
                return Ended(None, "")
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
    said = errors.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
    return Ended(process.returncode, said[0])


def follow(
    process: subprocess.Popen[bytes],
    request: bytes,
    *,
    until: float,
    heard: Callable[[bytes], bool | None],
    tick: Callable[[float], None] = lambda now: None,
) -> bytes | None:
    """Write the request to a process's standard input and hand on the lines of its output, until it closes its pipes.

    It also ends once `heard` returns True. `until` and what `tick` gets are times of `time.monotonic`. Returns the end
    of what it wrote to standard error, where that is a pipe; None if time ran out.
    """
    assert process.stdin
    assert process.stdout
    pipe, rest, errors = process.stdin.fileno(), b"", b""
    unsent = memoryview(request)
    os.set_blocking(pipe, False)  # a child that never reads would hold us for ever
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdin, selectors.EVENT_WRITE)
        selector.register(process.stdout, selectors.EVENT_READ)
        if process.stderr:
            selector.register(process.stderr, selectors.EVENT_READ)
        while selector.get_map():
            now = time.monotonic()
            if now > until:
                return None
            tick(now)
            for ready, _ in selector.select(timeout=min(1.0, until - now + 0.001)):
                if ready.fileobj is process.stdin:
                    with contextlib.suppress(BrokenPipeError):  # a child that died says why elsewhere
                        unsent = unsent[os.write(pipe, unsent) :]
                        if unsent:
                            continue
                    selector.unregister(process.stdin)
                    process.stdin.close()
                    continue
                content = os.read(ready.fd, 65536)
                if not content:
                    selector.unregister(ready.fileobj)
                elif ready.fileobj is process.stderr:
                    errors = (errors + content)[-_STDERR_KEPT:]
                else:
                    *lines, rest = (rest + content).split(b"\n")
                    if any(map(heard, lines)):
                        return errors
    return errors


def leash() -> None:
    """Have this process end with the one that started it, however that ends; on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def missing(last_words: str) -> str | None:
    """Return what to install, in words, if the last words tell that a package or library is missing; else None."""
    for module in ("tensorrt", "cuda", "onnx"):
        if f"No module named '{module}" in last_words:
            return (
                f"TensorRT engines need {module}, which is not installed. On a machine with an NVIDIA GPU: "
                "pip install 'tipstream[gpu]'"
            )
    if "cannot open shared object file" in last_words:
        return (
            f"TensorRT's libraries cannot be loaded ({last_words}). Install TensorRT whole: "
            "pip install 'tipstream[gpu]'"
        )
    return None


def own(module: str) -> tuple[str, ...]:
    """Return the command that runs one of our modules with this interpreter."""
    return (sys.executable, "-m", module)


def leashed(module: str) -> tuple[str, ...]:
    """Return the same for a module that is to end with the thread that starts it, however that ends."""
    run = f"runpy.run_module({module!r}, run_name='__main__')"
    return (sys.executable, "-c", f"import runpy; from engines.child import leash; leash(); {run}")


def environment() -> dict[str, str]:
    """Give the child this process's, with the path to this package, wherever it was started from."""
    root = str(Path(__file__).resolve().parents[1])
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
