"""Load a plan in a process that may die of it, before it is loaded in one that may not.

A plan is code that NVIDIA's libraries generate, and some plans that were built without an error end the process that
loads them: on an H200, TensorRT 8.6 did so with FP16 at level 5 and with INT8 at level 3. A crash cannot be caught, so
a child goes first: it loads the very bytes that it is given, tests every bucket against the stored scores and records
the graphs.

Run as a module, this is the child: a request (MessagePack) on standard input, one line of JSON on standard output.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Final

import msgspec

from engines.child import converse, leash, missing, own
from engines.manifest import Artifact, Manifest
from engines.model import ModelError
from engines.tensorrt.plan import Engine, Facts, pack_known, unpack_known

PROBE_TIMEOUT_S: Final = 120.0
_CHILD: Final = own("engines.tensorrt.probe")


class Probed(msgspec.Struct, frozen=True):
    """An engine that loads and answers as it should on this machine."""

    load_s: float
    """Seconds from the plan's bytes to the first batch that may be served, self-test included."""
    plain_buckets: tuple[int, ...] = ()
    """Buckets without a CUDA graph."""


class _Request(msgspec.Struct):
    manifest: Manifest
    facts: Facts
    plan: bytes
    known: bytes
    device: str = ""


class _Line(msgspec.Struct):
    probed: Probed | None = None
    error: str | None = None


def probe(
    engine: Engine, *, device: str = "", timeout_s: float = PROBE_TIMEOUT_S, child: tuple[str, ...] = _CHILD
) -> Probed:
    """Load an engine in a child and say how that went; raises ModelError, in words, if it did not go well. Blocks.

    `device` is a GPU's number or UUID, or a MIG instance's UUID. The plan runs as code: check the engine's seal first.
    """
    request = _Request(engine.manifest, engine.facts, engine.plan, pack_known(engine.known), device)
    answer = _Line()

    def heard(line: bytes) -> None:
        nonlocal answer
        try:
            answer = msgspec.json.decode(line, type=_Line)
        except msgspec.DecodeError:  # a library that prints
            return

    ended = converse(child, msgspec.msgpack.encode(request), timeout_s=timeout_s, heard=heard)
    if answer.error:
        raise ModelError(answer.error)
    if ended.status == 0 and answer.probed:
        return answer.probed
    settings = engine.facts.settings
    name = f"Engine {engine.facts.key[:8]} ({settings.precision}, level {settings.level})"
    if ended.status is None:
        raise ModelError(
            f"{name} was not loaded and tested within {timeout_s:.0f} s, so it may not serve. Look at the GPU with "
            "nvidia-smi: another process may fill it, or the driver may hang."
        )
    lower = f"--level {settings.level - 1} or lower, or with " if settings.level else ""
    raise ModelError(
        missing(ended.last_words)
        or f"{name} may not serve: the process that loaded it {ended.how} (last words: {ended.last_words}). Build it "
        f"again with {lower}--precision fp32."
    )


def main() -> int:
    """Answer the request on standard input; 0 if the engine works."""
    leash()
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    request = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=_Request)
    began = time.perf_counter()
    try:
        from engines.tensorrt.cuda import choose
        from engines.tensorrt.runner import TensorRTRunner

        choose(request.device)
        engine = Engine(Artifact(request.manifest, b""), request.facts, request.plan, unpack_known(request.known))
        runner = TensorRTRunner(engine)
        line = _Line(probed=Probed(round(time.perf_counter() - began, 3), runner.plain_buckets))
        runner.close()
    except ModelError as error:
        line = _Line(error=str(error))
    print(msgspec.json.encode(line).decode(), flush=True)
    return 2 if line.error else 0


if __name__ == "__main__":
    raise SystemExit(main())
