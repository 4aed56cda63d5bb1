"""A process in a group of its own that never outlives the one that started it."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import msgspec

__all__ = ["Child", "ChildError"]

# Runs before the program and in its place: PR_SET_PDEATHSIG (1) survives exec. A parent that died in between is noticed
# by the second line. (subprocess's preexec_fn would do the same, but may deadlock in a process that has threads.)
LEASH: Final = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, int(sys.argv[1]))
if os.getppid() == int(sys.argv[2]):
    os.execvp(sys.argv[3], sys.argv[3:])
"""


class ChildError(RuntimeError):
    """A child process did not start, or ended before it was ready; the message quotes what it said last."""


class Child:
    """A running program: leashed to this process, stopped together with everything it started.

    Start it from a thread that stays: Linux ends a leashed process with the *thread* that started it.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        log: Path | None = None,
        env: Mapping[str, str] | None = None,
        announces: bool = False,
        orphaned: signal.Signals = signal.SIGTERM,
    ) -> None:
        """Start `argv`; `log` gets its output (inherited when None), without stdout if it `announces` there.

        `orphaned` is the signal it gets when this process dies in whatever way (on Linux; elsewhere nothing is sent).
        """
        leash = [sys.executable, "-I", "-S", "-c", LEASH, str(int(orphaned)), str(os.getpid())]
        self.argv = tuple(argv)
        self.log = log
        with contextlib.ExitStack() as files:
            output: IO[bytes] | None = files.enter_context(log.open("ab")) if log else None
            self.process = subprocess.Popen(  # noqa: S603 -- the command comes from our own code, no shell
                [*(leash if sys.platform == "linux" else ()), *argv],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if announces else output,
                stderr=output,
                env=None if env is None else {**os.environ, **env},
                start_new_session=True,  # Ctrl-C reaches the parent only, which stops its children in order
            )

    @property
    def pid(self) -> int:
        """Process id, and id of its group."""
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether the program has not ended yet."""
        return self.process.poll() is None

    def ready(self, timeout: float = 30.0) -> dict[str, Any]:
        """Wait for the line of JSON that an announcing program prints when it is ready; ChildError if none comes."""
        assert self.process.stdout is not None, "only a child that announces can be waited for"
        line, deadline = b"", time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(deadline - time.monotonic()):
                    raise self.failed(f"was not ready within {timeout:g} s")
                chunk = os.read(self.process.stdout.fileno(), 4096)
                if not chunk:
                    raise self.failed("ended before it was ready")
                line += chunk
        try:
            return msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.DecodeError:
            raise self.failed(f"announced {line!r}, which is not a JSON object") from None

    def failed(self, how: str) -> ChildError:
        """Stop it, and say in words what happened to it, with the end of its log."""
        self.stop(grace=0.5)
        said = self.log.read_text(errors="replace").strip()[-2000:] if self.log and self.log.exists() else ""
        return ChildError(f"{' '.join(self.argv)[:300]} {how} (exit status {self.process.returncode}). {said}".strip())

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the program alone; nothing happens if it has ended."""
        self.process.send_signal(number)

    def stop(self, grace: float = 10.0) -> int:
        """Ask it to end, kill its whole group after `grace` seconds; its exit status. Harmless when repeated."""
        self.signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(grace)
        return self.kill()

    def kill(self) -> int:
        """Kill its whole group at once (SIGKILL); its exit status."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: EPERM when only the dead are left
            os.killpg(self.pid, signal.SIGKILL)
        if self.process.stdout:
            self.process.stdout.close()
        return self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.stop()
