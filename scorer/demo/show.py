"""The demo from its first line to its summary."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.text import Text

from scorer.config import ENV_PREFIX
from scorer.demo.plain import Plain
from scorer.demo.scene import Scene
from scorer.demo.screen import Screen
from scorer.demo.stack import Stack, Stopped
from scorer.demo.summary import summary
from scorer.embedded.child import ChildError

_FRAME_S: Final = 0.5
_SPARE_S: Final = 5  # of traffic, so that it does not end before the demo


def run(seconds: int) -> int:
    """Show it for `seconds`, or until Ctrl-C, SIGTERM or SIGHUP; the exit status. Call it from the main thread."""
    for name in [name for name in os.environ if name.startswith(ENV_PREFIX)]:
        del os.environ[name]  # settings for another cluster, which the demo must not touch
    # No exception: that may come between any two lines, those of a lock being taken included. And no lock here.
    asked: list[int] = []
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, lambda number, _: asked.append(number))

    def stopped() -> bool:
        return bool(asked)

    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal without our characters
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory(prefix="tipstream-demo-") as folder:
        stack = Stack(Path(folder))
        try:
            stack.start(seconds + _SPARE_S, lambda text: _step(console, text), stopped)
            scene = asyncio.run(_watch(stack, seconds, console, stopped))
        except Stopped:
            console.print("Ended before there was anything to sum up.")
            return 0
        except ChildError as error:
            console.print(Text.assemble(("The demo cannot go on: ", "red"), str(error)))
            return 1
        finally:
            with _step(console, "Ending the four processes"):
                stack.stop()
    console.print(summary(scene))
    return 0


async def _watch(stack: Stack, seconds: int, console: Console, stopped: Callable[[], bool]) -> Scene:
    """Play traffic and show what becomes of it until the time is up, or somebody asks to stop."""
    scene = Scene(stack, seconds)
    await scene.open()
    try:
        stack.play()
        with _face(scene, console) as draw:
            while not stopped() and not scene.over:
                await scene.look()
                draw()
                await asyncio.sleep(_FRAME_S)
        await scene.measure()
    finally:
        await scene.close()
    return scene


@contextmanager
def _face(scene: Scene, console: Console) -> Iterator[Callable[[], None]]:
    """Give a function that shows the scene as it stands: a screen on a terminal, else a line now and then."""
    if not console.is_terminal or console.is_dumb_terminal:
        yield Plain(scene, console).draw
        return
    screen = Screen(scene)
    with Live(screen, console=console, screen=True, auto_refresh=False) as live:
        yield live.refresh


@contextmanager
def _step(console: Console, text: str) -> Iterator[None]:
    """Say what goes on, and how long it took."""
    began = time.monotonic()
    if not console.is_terminal:
        console.print(f"{text} ...")
        yield
        return
    with console.status(text, spinner="dots", spinner_style="cyan"):
        yield
    console.print(f"[cyan]✓[/] {text} [dim]{time.monotonic() - began:.1f} s[/]")
