"""The command that only measures: `bench`."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from engines.commands.numbers import positive
from engines.commands.releasing import add_repository
from engines.commands.tables import add, show, status
from engines.gate.verdict import Speed
from engines.manifest import read_manifest
from engines.repository.store import Repository

_ROWS: Final = 4096
_BENCH: Final = """Time a model or an engine on this machine, batch size by batch size: rows in, scores out. Several are
timed in turns, so that what disturbs one disturbs all. The rows are made up; `verify` measures with recorded ones and
says what the figures mean for serving."""
_EXAMPLES: Final = """examples:
  tipstream-engine bench engines/models/reference              the model on this machine's CPU
  tipstream-engine bench 3f2a engines/models/reference         an engine beside it
"""


def add_commands(commands: Any) -> None:
    """Add it to the parser's commands."""
    bench = commands.add_parser(
        "bench",
        help="time models and engines on this machine",
        description=_BENCH,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    bench.set_defaults(run=_bench)
    bench.add_argument("versions", nargs="+", metavar="VERSION", help="the beginning of its id, or any folder")
    bench.add_argument(
        "--runs", type=positive, default=300, metavar="N", help="calls in a block, five each (%(default)s)"
    )
    add_repository(bench)


def _bench(options: argparse.Namespace) -> None:
    from engines.gate.speed import measure
    from engines.gate.verify import describe, loaded
    from engines.tensorrt.build import draw

    folders = [_folder(Repository(options.repository), name) for name in options.versions]
    with ExitStack() as stack, status() as say:
        opened = [stack.enter_context(loaded(each, read_manifest(each).features, say)) for each in folders]
        rows = draw(opened[0][0].manifest, _ROWS)
        models = [(describe(each), model) for each, model in opened]
        found = measure(models, *rows, runs=options.runs, progress=say)
    show(_table(found))


def _folder(repository: Repository, name: str) -> Path:
    path = Path(name)
    return path if path.is_dir() else repository.folder(repository.find(name))


def _table(speeds: tuple[Speed, ...]) -> Table:
    table = Table("rows", "version", "p50, us", "p99, us", "scores/s")
    for timing in speeds[0].timings:
        for speed in speeds:
            for each in speed.timings:
                if each.size == timing.size:
                    figures = f"{each.p50_us:,.1f}", f"{each.p99_us:,.1f}", f"{each.per_second:,.0f}"
                    add(table, f"{each.size:,}", speed.name, *figures)
    return table
