"""`tipstream-engine`: train models, build engines from them, judge them, and say which one serves."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from engines.commands import building, measuring, models, releasing
from engines.model import ModelError

_ABOUT: Final = "Models of tipping intent and the engines made from them: train, build, judge, sign, serve, go back."
_EPILOG: Final = """the usual way:
  tipstream-engine train var/dataset --out var/models/mine         train on a set that `tipstream-replay dataset` made
  tipstream-engine build var/models/mine --precision fp16          a TensorRT engine for this machine's GPU (optional)
  tipstream-engine verify 3f2a --traffic yesterday.parquet         the gate: accuracy, invariance, speed, energy
  tipstream-engine promote 3f2a                                    sign it and have it serve; what served is kept
  tipstream-engine rollback                                        the version before serves again
  tipstream-engine list                                            what there is, what passed, what serves
  tipstream-engine bench 3f2a var/models/mine                      how fast they are here, side by side

A version is named by the beginning of its id, by `serving` or `previous`, or by its folder. `keygen` makes the keys
that promoting needs, once. `tipstream-engine COMMAND --help` explains each; docs/engines.md explains the whole.

exit status: 0 done, or passed the gate; 1 did not pass the gate; 2 could not be done, with a sentence that says why;
130 interrupted; 143 terminated
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 if it went well, 1 if the gate said no, 2 with a sentence if it could not; 130 on Ctrl-C."""
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int | None] = options.run
    try:
        with _terminable():
            return run(options) or 0
    except (ModelError, OSError, UnicodeError) as error:  # the latter of a path or a stream that was given
        print(f"tipstream-engine {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


@contextmanager
def _terminable() -> Iterator[None]:
    """Have SIGTERM end a command as Ctrl-C does: what it started ends with it, and its temporary files go."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tipstream-engine",
        description=_ABOUT,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    models.add_commands(commands)
    building.add_commands(commands)
    measuring.add_commands(commands)
    releasing.add_commands(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
