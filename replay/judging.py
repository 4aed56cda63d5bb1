"""The commands about scores: `score`, `report`, `diff` and `explain`."""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from engines import files
from engines.commands.numbers import positive
from engines.folder import load, read_either
from engines.manifest import read_manifest
from engines.model import Model
from engines.prior import PriorModel
from features.catalogue import fingerprint
from features.engine import warm_up
from replay import diff, explained, report
from replay.explain import explain
from replay.offline import Offline, score
from replay.outcomes import Outcomes, outcomes
from replay.progress import bar
from replay.published import open_scores
from replay.recording import Recording, RecordingError, writing
from replay.scores import Scores
from scorer import garbage
from scorer.service import REFERENCE_MODEL

_NONE: Final = "none"
_PIPED_WIDTH: Final = 180  # columns of a table that no terminal shows
_SCORE: Final = """Score a recording through the service's own pipeline, with rows in memory and time as recorded: no
Kafka, no Redis, no waiting, nothing shed. The scores are those that the service publishes for the same records."""
_SCORE_EXAMPLES: Final = """examples:
  tipstream-replay score hour.parquet --out scores.parquet                        with the reference model
  tipstream-replay score hour.parquet --model models/mine --out mine.parquet
  tipstream-replay score hour.parquet --model none --out history.parquet          tip history alone, no model
  tipstream-replay score may.parquet --after april.parquet --out may.scores.parquet
  tipstream-replay score hour.parquet --partitions 12 --out twelve.parquet        rooms spread over 12 partitions

A recording starts from nothing known about anybody, unless --after names those that came before it.
Records that were read from Kafka keep their partition; others get one by key. With several partitions, room counts of
the others arrive up to 500 ms late, as in service, and scores differ by that from those of one partition.
"""
_REPORT: Final = """Tell how well scores foresaw the tips that followed: ranking, calibration, tiers. Tips are those in
the recording of the same viewer in the same room, strictly after the event; the last events, whose horizon the
recording does not cover, are left out."""
_REPORT_EXAMPLES: Final = """examples:
  tipstream-replay report scores.parquet --recording hour.parquet
  tipstream-replay report scores.parquet --recording hour.parquet --html report.html

SCORES is a score file that `score` wrote, or a recording of the topic of scores: what the service published.
"""
_EXPLAIN: Final = """Say why an event got its score: compute its features and history anew from recorded events, let the
model score them again, and compare that with what was published. Ends with status 1 if the two differ."""
_EXPLAIN_EXAMPLES: Final = """examples:
  tipstream-replay record events.parquet
  tipstream-replay record scores.parquet --topic live.tip-intent.scores.v1
  tipstream-replay explain e6-10840 --events events.parquet --scores scores.parquet
  tipstream-replay explain e6-10840 --events june.parquet --after may.parquet --scores scores.parquet --json

The recorded events have to begin where the service's knowledge of the viewer and the room does. `tipstream explain` is
the same command.
"""
_DIFF: Final = """Compare two score files of one recording, event by event: how far probabilities and ranks moved, which
events change their tier, and, given the recording, which of the two foresaw the tips better. In place of a score file,
a model's folder or `none` scores the recording first."""
_DIFF_EXAMPLES: Final = """examples:
  tipstream-replay diff old.parquet new.parquet
  tipstream-replay diff old.parquet new.parquet --recording hour.parquet --html diff.html
  tipstream-replay diff models/old models/new --recording hour.parquet --html diff.html
  tipstream-replay diff published.parquet models/new --recording hour.parquet

A recording of the topic of scores is as good as a score file: so what was published is compared with a new model.
"""


def add_commands(commands: Any) -> None:
    """Add them to the parser's commands."""
    raw = argparse.RawDescriptionHelpFormatter
    scored = commands.add_parser(
        "score", help="score a recording", description=_SCORE, epilog=_SCORE_EXAMPLES, formatter_class=raw
    )
    scored.set_defaults(run=_score)
    scored.add_argument("recording", type=Path, metavar="RECORDING")
    scored.add_argument(
        "--model",
        metavar="FOLDER",
        help="a model, or an engine on its GPU (default: the reference model); none: tip history alone",
    )
    scored.add_argument("--prior", action="store_true", help="score by the model's prior instead: tip history alone")
    scored.add_argument(
        "--after",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="recordings that came before, in order: not scored, but what they tell about viewers and rooms is known",
    )
    scored.add_argument("--out", type=Path, required=True, metavar="SCORES", help="the score file to write")
    scored.add_argument("--partitions", type=positive, default=1, metavar="N", help="for records without (default: 1)")
    scored.add_argument("--batch", type=positive, default=1_024, metavar="N", help="records a batch (default: 1024)")

    told = commands.add_parser(
        "report", help="how good scores are", description=_REPORT, epilog=_REPORT_EXAMPLES, formatter_class=raw
    )
    told.set_defaults(run=_report)
    told.add_argument("scores", type=Path, metavar="SCORES")
    told.add_argument(
        "--recording", type=Path, required=True, metavar="FILE", help="that was scored: it holds the tips"
    )
    told.add_argument("--html", type=Path, metavar="OUT", help="write a page with plots as well")

    compared = commands.add_parser(
        "diff", help="compare two score files or models", description=_DIFF, epilog=_DIFF_EXAMPLES, formatter_class=raw
    )
    compared.set_defaults(run=_diff)
    compared.add_argument("a", metavar="A", help="score file, recording of the topic of scores, model folder, or none")
    compared.add_argument("b", metavar="B", help="the one that is to replace it")
    compared.add_argument("--recording", type=Path, metavar="FILE", help="that was scored: it holds the tips")
    compared.add_argument("--html", type=Path, metavar="OUT", help="write a page with plots as well")

    why = commands.add_parser(
        "explain", help="why an event got its score", description=_EXPLAIN, epilog=_EXPLAIN_EXAMPLES,
        formatter_class=raw,
    )  # fmt: skip
    why.set_defaults(run=_explain)
    why.add_argument("event", metavar="EVENT_ID")
    why.add_argument("--events", type=Path, required=True, metavar="FILE", help="recording of the events' topic")
    why.add_argument("--scores", type=Path, required=True, metavar="FILE", help="recording of the scores' topic")
    why.add_argument(
        "--after", type=Path, nargs="+", default=[], metavar="FILE", help="recordings of earlier events, in order"
    )
    why.add_argument(
        "--model", type=Path, default=REFERENCE_MODEL, metavar="FOLDER", help="that scored (default: the reference)"
    )
    why.add_argument(
        "--tolerance", type=float, metavar="P", help="most that probabilities may differ (default: by engine, told)"
    )
    why.add_argument("--json", action="store_true", help="print JSON instead of tables")


def _score(arguments: argparse.Namespace) -> None:
    run, seconds = _run(
        arguments.recording,
        _model(arguments.model, prior=arguments.prior),
        arguments.out,
        after=arguments.after,
        partitions=arguments.partitions,
        batch=arguments.batch,
    )
    counts, events = run.counts, run.counts["consumed"]
    print(f"{arguments.out}: {counts['scored']:,} scores of {events:,} records in {seconds:.1f} s", end=", ")
    print(f"{events / max(seconds, 1e-9):,.0f} records per second.")
    rest = {name.replace("_", " "): counts[name] for name in ("state_only", "duplicate", "unknown", "rejected")}
    print("Not scored: " + ", ".join(f"{count:,} {name}" for name, count in rest.items()) + ".")
    each = ((stage, spent / max(events, 1) * 1e6) for stage, spent in run.seconds.items())
    print("Microseconds a record: " + ", ".join(f"{stage} {spent:.1f}" for stage, spent in each) + ".")


def _report(arguments: argparse.Namespace) -> None:
    scores = open_scores(arguments.scores)
    found = report.judge(scores, _outcomes(scores, arguments.recording))
    print(report.text(scores, found))
    if arguments.html is not None:
        _write(arguments.html, report.page(scores, found))


def _diff(arguments: argparse.Namespace) -> None:
    with _scores(arguments.a, arguments.recording) as a, _scores(arguments.b, arguments.recording) as b:
        known = None if arguments.recording is None else _outcomes(a, arguments.recording)
        found = diff.compare(a, b, known)
        print(diff.text(found))
        if arguments.html is not None:
            _write(arguments.html, diff.page(found))


def _explain(arguments: argparse.Namespace) -> int:
    with bar("explain", None) as advance:
        found = explain(
            arguments.event,
            arguments.scores,
            arguments.events,
            after=arguments.after,
            model=arguments.model,
            tolerance=arguments.tolerance,
            advance=advance,
        )
    if arguments.json:
        print(explained.json(found))
    else:
        Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH).print(explained.tables(found))
    return 0 if found.same else 1


@contextmanager
def _scores(name: str, recording: Path | None) -> Iterator[Scores]:
    """Read a score file, or make one with a model."""
    if name != _NONE and not Path(name).is_dir():
        yield open_scores(Path(name))
        return
    if recording is None:
        raise RecordingError(f"{name} is a model: say with --recording what it is to score.")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "scores.parquet"
        _run(recording, _model(name), out)
        yield Scores.read(out)


def _outcomes(scores: Scores, path: Path) -> Outcomes:
    with Recording(path) as recording:
        return outcomes(scores, recording)


def _run(
    path: Path, model: Model, out: Path, *, after: Sequence[Path] = (), partitions: int = 1, batch: int = 1_024
) -> tuple[Offline, float]:
    if any(out.exists() and each.exists() and out.samefile(each) for each in (path, *after)):
        raise RecordingError(f"{out} is the recording itself: name another file for the scores.")
    with ExitStack() as files:
        recording = files.enter_context(Recording(path))
        earlier = [files.enter_context(Recording(before)) for before in after]
        warm_up()
        garbage.take_over()
        began = time.perf_counter()
        try:
            with bar("score", sum(each.rows for each in (*earlier, recording))) as advance:
                passed = score(
                    recording, model, out, after=earlier, partitions=partitions, batch=batch, advance=advance
                )
                run = asyncio.run(passed)
        finally:
            gc.enable()
        return run, time.perf_counter() - began


def _model(name: str | None, *, prior: bool = False) -> Model:
    if name == _NONE or prior:
        return PriorModel(read_manifest(REFERENCE_MODEL if name in (_NONE, None) else Path(str(name))))
    folder = REFERENCE_MODEL if name is None else Path(name)
    return load(read_either(folder, features=fingerprint()))


def _write(path: Path, text: str) -> None:
    if path.is_dir():
        raise RecordingError(f"{path} cannot be written: it is a folder.")
    with writing(path):
        files.replace(path, text.encode())
    print(f"{path}: open it in a browser.")
