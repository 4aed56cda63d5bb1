"""Members as processes of their own: started, frozen, killed, asked how they are."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import msgspec

from scorer.embedded.child import Child
from scorer.ports import free_port
from tests.faults.member import Trick, Tricks
from tests.integration.member import Setup

_BLOCK_S = 12.0


class Member:
    """One running `tipstream serve`."""

    def __init__(self, setup: Setup, folder: Path, name: str, tricks: Tricks) -> None:
        """Start it."""
        self.name, self.port = name, free_port()
        self.log = folder / f"{name}.log"
        file = folder / f"{name}.toml"
        file.write_text(_settings(setup, self.port))
        told = msgspec.json.encode(tricks).decode()
        command = [sys.executable, "-m", "tests.faults.member", told, "serve", "--config", str(file)]
        self.child = Child(command, log=self.log)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.child.running

    @property
    def status(self) -> int | None:
        """How it ended: an exit status, or minus a signal's number."""
        return self.child.process.poll()

    @property
    def pid(self) -> int:
        """Its process's number."""
        return self.child.pid

    def kill(self) -> None:
        """SIGKILL."""
        self.child.kill()

    def freeze(self) -> None:
        """SIGSTOP."""
        self.child.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self.child.signal(signal.SIGCONT)

    def block(self) -> None:
        """Have its event loop stand still for twelve seconds."""
        self.child.signal(signal.SIGUSR1)

    async def stop(self) -> int:
        """SIGTERM; the exit status."""
        return await asyncio.to_thread(self.child.stop, 20.0)

    async def ended(self, seconds: float = 60.0) -> int:
        """Wait for it to end by itself; how it ended."""
        async with asyncio.timeout(seconds):
            while self.running:  # noqa: ASYNC110 -- another process says when
                await asyncio.sleep(0.02)
        return int(self.status or 0)

    async def metrics(self) -> Mapping[str, float]:
        """What it exports, by name and labels; empty while it does not answer."""
        page = await self._page("/metrics")
        lines = [line.rpartition(" ") for line in page.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}

    async def ready(self) -> str:
        """What `/readyz` has against it; empty if nothing."""
        return await self._page("/readyz")

    async def owned(self) -> int:
        """How many partitions it has claimed."""
        return int((await self.metrics()).get('tipstream_partitions{state="owned"}', 0))

    def memory_mb(self) -> float:
        """Resident now."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def peak_mb(self) -> float:
        """Resident at most, so far."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

    def descriptors(self) -> int:
        """Open files and sockets."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    async def _page(self, path: str) -> str:
        def fetch() -> str:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                    return str(answer.read().decode())
            except urllib.error.HTTPError as refused:
                with refused:
                    return str(refused.read().decode())

        try:
            return await asyncio.to_thread(fetch)
        except OSError:
            return ""


class Fleet:
    """Members of one group."""

    def __init__(self, setup: Setup, folder: Path, session_timeout_ms: int | None) -> None:
        """None runs yet."""
        self.setup = setup
        self.all: list[Member] = []
        self._folder = folder
        self._session_timeout_ms = session_timeout_ms

    def start(self, *tricks: Trick) -> Member:
        """Run one more."""
        told = Tricks(tricks, _BLOCK_S, self._session_timeout_ms)
        self.all.append(Member(self.setup, self._folder, f"member-{len(self.all)}", told))
        return self.all[-1]

    @property
    def running(self) -> list[Member]:
        """Those that have not ended."""
        return [member for member in self.all if member.running]

    async def share(self, *members: Member, seconds: float = 60) -> None:
        """Wait until these have all partitions, as evenly as can be."""
        least = self.setup.partitions // len(members)
        async with asyncio.timeout(seconds):
            while True:
                owned = [await member.owned() for member in members]
                if sum(owned) == self.setup.partitions and min(owned) >= least:
                    return
                if ended := [member.name for member in members if not member.running]:
                    raise RuntimeError(f"{ended} ended while waited for")
                await asyncio.sleep(0.1)

    def end(self) -> None:
        """Kill what still runs."""
        for member in self.all:
            member.kill()


def _settings(setup: Setup, port: int) -> str:
    config = msgspec.structs.replace(setup.config, server=msgspec.structs.replace(setup.config.server, port=port))
    sections = msgspec.to_builtins(config)
    lines = [f"{name} = {_toml(value)}" for name, value in sections.items() if not isinstance(value, dict)]
    for section, values in sections.items():
        if isinstance(values, dict):
            lines += [f"[{section}]", *(f"{k} = {_toml(v)}" for k, v in values.items() if v is not None)]
    return "\n".join(lines)


def _toml(value: object) -> str:
    return msgspec.json.encode(value).decode()  # what there is here reads the same in both
