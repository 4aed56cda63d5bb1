"""`tipstream`: the command of the service."""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final, NoReturn

import msgspec

from scorer import config as configuration
from scorer.config import Config, ConfigError

log = logging.getLogger(__name__)

_SUCCESS: Final = 0
_FAILURE: Final = 1
_USAGE: Final = 2
_PIPED_WIDTH: Final = 200  # columns of a table that no terminal shows
_CLOSING_S: Final = 13.0  # beyond the drain: a worker closes four things, each in three seconds
_PR_SET_PDEATHSIG: Final = 1  # <sys/prctl.h>

_ABOUT: Final = """Tells a live-streaming platform, while the impulse lasts, how likely a viewer is to tip."""
_EXAMPLES: Final = """examples:
  tipstream demo                              see it work: broker, Redis, traffic and scorer on this machine
  tipstream check --config tipstream.toml     is everything there and set up right? says how to fix what is not
  tipstream serve --config tipstream.toml     score until SIGTERM
  tipstream serve --workers 4                 four members of the group on this machine
  tipstream features                          what is known about a viewer, column by column
  tipstream explain --help                    why an event got its score, from recordings of events and scores

Every setting is in docs/configuration.md and has a variable: TIPSTREAM_KAFKA__BOOTSTRAP=broker:9092 tipstream serve
"""
_SERVE: Final = """Reads events from Kafka, keeps viewers' state in Redis and publishes scores to Kafka, until SIGTERM
or Ctrl-C; then finishes what it has read (drain_s) and exits with status 0. /healthz, /readyz and /metrics answer on
the port that server.port names."""
_WORKERS: Final = """run N members of the consumer group under one supervisor, which restarts those that die and shows
all of their metrics on server.port; worker i answers on server.port + i of 127.0.0.1. Each holds its own model and its
own rows in memory, so N workers need N times the memory of one, and more than the topic has partitions stay idle"""
_CHECK: Final = """Looks at the configuration, Kafka, Redis and the model, changes nothing that stays, and says for each
finding how to fix it. Exits with status 1 if there is a problem, 0 if there are only warnings."""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 it went wrong, 2 it was asked wrongly, 75 Kafka was away."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["explain"]:
        _become("replay.cli", words)
    arguments = _parser().parse_args(words)
    try:
        status = _COMMANDS[arguments.command](arguments)
    except ConfigError as error:
        print(f"tipstream: {error}", file=sys.stderr)
        status = _USAGE
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except BrokenPipeError:  # `tipstream features | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = _SUCCESS
    sys.exit(status)


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("tipstream", description=_ABOUT, epilog=_EXAMPLES, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="score events until told to stop", description=_SERVE)
    _add_config(serve)
    serve.add_argument("--workers", type=_positive, default=1, metavar="N", help=_WORKERS)
    # How a supervisor starts its workers: the process to end with, and the port to answer on.
    serve.add_argument("--worker", type=int, nargs=2, metavar=("PARENT", "PORT"), help=argparse.SUPPRESS)

    check = commands.add_parser("check", help="find out whether it can run, and how to fix it", description=_CHECK)
    _add_config(check)

    commands.add_parser("features", help="print the feature catalogue")
    commands.add_parser("explain", help="say why an event got its score, and whether it would get it again")
    demo = commands.add_parser("demo", help="see it work on this machine, nothing else needed")
    demo.add_argument("--seconds", type=_positive, default=60, metavar="S", help="how long (default: 60)")
    commands.add_parser("version", help="print the version")
    return parser


def _become(module: str, words: Sequence[str]) -> NoReturn:
    """Turn into another command, of a package that this one must not import."""
    os.execv(sys.executable, [sys.executable, "-m", module, *words])  # noqa: S606 -- this very interpreter


def _add_config(parser: argparse.ArgumentParser) -> None:
    text = f"settings in TOML; default: what {configuration.ENV_FILE} names, else defaults and variables only"
    parser.add_argument("--config", type=Path, metavar="FILE", help=text)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def _serve(arguments: argparse.Namespace) -> int:
    config = configuration.load(arguments.config)
    _log(config)
    if arguments.workers > 1:
        try:
            return _supervise(arguments, config)
        except OSError as error:
            log.critical("%s", error)
            return _FAILURE
    if arguments.worker is not None:
        config = _as_worker(config, *arguments.worker)
    import uvloop

    # Here, since they load the kernel and the model's runtime: seconds that no other command should wait.
    from engines.model import ModelError
    from features.store import StoreUnavailable
    from scorer import service
    from scorer.kafka.refusal import Unreachable
    from scorer.supervisor import TRY_LATER
    from scorer.watchdog import Stuck

    try:
        return uvloop.run(service.run(config))
    except ModelError as error:
        raise ConfigError(str(error)) from error
    except Unreachable as error:
        log.critical("%s", error)  # what happened outside needs no traceback
        return _USAGE if error.final else TRY_LATER  # a supervisor need not try again what only a person can mend
    except (OSError, StoreUnavailable, Stuck) as error:
        log.critical("%s", error)
        return _FAILURE


def _supervise(arguments: argparse.Namespace, config: Config) -> int:
    from scorer.ports import free_port
    from scorer.supervisor import Supervisor, Worker

    count, port = arguments.workers, config.server.port
    ports = range(port + 1, port + 1 + count) if port else [free_port() for _ in range(count)]
    command = [sys.executable, "-m", "scorer.cli", "serve"]
    if arguments.config is not None:
        command += ["--config", str(arguments.config)]
    parent = str(os.getpid())
    workers = [Worker(str(i), [*command, "--worker", parent, str(at)], at) for i, at in enumerate(ports, 1)]
    supervisor = Supervisor(workers, grace_s=config.drain_s + _CLOSING_S)
    return asyncio.run(supervisor.run(config.server.host, port))


def _check(arguments: argparse.Namespace) -> int:
    from scorer import check

    return asyncio.run(check.run(configuration.load(arguments.config)))


def _features(_: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from features.catalogue import FEATURES, fingerprint

    table = Table("#", "name", "unit", "window", "source", "what it says", title=f"Catalogue {fingerprint()}")
    for column, feature in enumerate(FEATURES):
        cells = (feature.name, feature.unit, feature.window, feature.source, feature.description)
        table.add_row(str(column), *cells)
    Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH).print(table)
    return _SUCCESS


def _demo(arguments: argparse.Namespace) -> int:
    from scorer import demo

    return demo.run(seconds=arguments.seconds)


def _version(_: argparse.Namespace) -> int:
    print(version("tipstream"))
    return _SUCCESS


_COMMANDS: Final = {
    "serve": _serve,
    "check": _check,
    "features": _features,
    "demo": _demo,
    "version": _version,
}


def _log(config: Config) -> None:
    logging.basicConfig(
        level=config.log_level.upper(), format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", stream=sys.stderr
    )
    # At debug the clients print whole requests: viewers' ids, and what SASL sends. What they print at info, our own
    # lines say better.
    for client in ("aiokafka", "redis", "asyncio"):
        logging.getLogger(client).setLevel(logging.INFO if config.log_level == "debug" else logging.WARNING)


def _as_worker(config: Config, parent: int, port: int) -> Config:
    """Tie this process to its supervisor and return its own configuration.

    The kernel sends SIGTERM once the supervisor is gone, however that ended. Only the supervisor asks a worker, so it
    answers on the loopback address.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it went before the request was made
        sys.exit(_FAILURE)
    return msgspec.structs.replace(config, server=configuration.Server("127.0.0.1", port))


if __name__ == "__main__":
    main()
