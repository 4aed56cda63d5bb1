"""One member of the service, made to misbehave: `python -m tests.faults.member TRICKS serve --config FILE`.

The service is the real one, started through its own command line. TRICKS is JSON: which of its methods to wrap, and at
which call to die, block or fail. The product has no hooks for this, and runs no other code here than elsewhere.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from engines.model import ModelError
from scorer import cli, config


class Trick(msgspec.Struct, frozen=True):
    """What to do at a call of a method."""

    at: str
    """`module:Class.method`, or `module:function`."""
    then: Literal["die", "block", "wait", "raise", "spoil"]
    """SIGKILL; hold up the event loop; hold up this call; fail as a model does; make NaN of the first argument."""
    when: Literal["before", "after"] = "before"
    nth: int = 1
    """At which call, from 1; `after`, calls that returned nothing (an empty poll) do not count."""
    times: int = 1
    """At how many calls in a row."""
    seconds: float = 0.0


class Tricks(msgspec.Struct, frozen=True):
    """Everything about a member that is not as usual."""

    tricks: tuple[Trick, ...] = ()
    block_s: float = 0.0
    """How long SIGUSR1 holds up the event loop."""
    session_timeout_ms: int | None = None
    """Below what the configuration allows, so that tests need not wait."""


def play(trick: Trick) -> None:
    """Wrap the method. Raises AttributeError when there is none of this name any more."""
    owner, name = resolve(trick.at)
    method: Callable[..., Any] = getattr(owner, name)
    calls = itertools.count(1)

    def due(outcome: object) -> bool:
        if trick.when == "after" and outcome is not None and not outcome:
            return False
        return trick.nth <= next(calls) < trick.nth + trick.times

    async def waiting(*args: Any, **options: Any) -> Any:
        if trick.when == "before" and due(None):
            await _do_awaiting(trick)
        outcome = await method(*args, **options)
        if trick.when == "after" and due(outcome):
            await _do_awaiting(trick)
        return outcome

    def plain(*args: Any, **options: Any) -> Any:
        if trick.when == "before" and due(None):
            if trick.then == "spoil":
                args = (type(args[0])(*(array * float("nan") for array in args[0])), *args[1:])
            else:
                _do(trick)
        outcome = method(*args, **options)
        if trick.when == "after" and due(outcome):
            _do(trick)
        return outcome

    setattr(owner, name, waiting if inspect.iscoroutinefunction(method) else plain)


def resolve(at: str) -> tuple[Any, str]:
    """Return the class or module, and the name in it. Raises AttributeError when there is none."""
    module, _, path = at.partition(":")
    kind, _, name = path.rpartition(".")
    owner = importlib.import_module(module)
    if kind:
        owner = getattr(owner, kind)
    getattr(owner, name)
    return owner, name


async def _do_awaiting(trick: Trick) -> None:
    if trick.then == "wait":
        await asyncio.sleep(trick.seconds)
    else:
        _do(trick)


def _do(trick: Trick) -> None:
    print(f"{trick.then} {trick.when} {trick.at}", file=sys.stderr, flush=True)
    if trick.then == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif trick.then == "raise":
        raise ModelError(f"failed on demand, {trick.when} {trick.at}")
    else:
        time.sleep(trick.seconds)


def main() -> None:
    """Play the tricks, then be the service."""
    tricks = msgspec.json.decode(sys.argv.pop(1), type=Tricks)
    if tricks.session_timeout_ms is not None:
        load, timeout_ms = config.load, tricks.session_timeout_ms

        def quicker(path: Path | None = None, environ: Mapping[str, str] | None = None) -> config.Config:
            loaded = load(path, environ)
            kafka = msgspec.structs.replace(loaded.kafka, session_timeout_ms=timeout_ms)
            return msgspec.structs.replace(loaded, kafka=kafka)

        config.load = quicker
    for trick in tricks.tricks:
        play(trick)
    signal.signal(signal.SIGUSR1, lambda *_: time.sleep(tricks.block_s))
    cli.main()


if __name__ == "__main__":
    main()
