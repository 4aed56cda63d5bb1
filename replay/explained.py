"""An explanation shown: tables for a terminal, or JSON."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from features.catalogue import FEATURES, HISTORY_CHANNELS
from features.events import EVENT_TYPES
from features.rows import FREE_GIFT
from replay.explain import Explanation
from replay.wording import in_words

_UNITS: Final = {"age": "lg ms", "gap": "lg ms", "amount": "lg minor units", "size": "lg count"}


def tables(found: Explanation) -> RenderableType:
    """Lay it out for a terminal."""
    return Group(_headline(found), _score(found), _features(found), _history(found), _verdict(found))


def json(found: Explanation) -> str:
    """Lay it out for programs."""
    published, again = found.published, found.fields
    document = {
        "same": found.same,
        "tolerance": found.tolerance,
        "partition": published.partition,
        "offset": published.offset,
        "repeats": found.repeats,
        "published": published.score,
        "again": {each.name: each.again for each in again},
        "differs": [each.name for each in again if not each.same],
        "event": found.event,
        "features": [
            {"name": feature.name, "value": float(value), "unit": feature.unit, "means": in_words(value, feature.unit)}
            for feature, value in zip(FEATURES, found.features.tolist(), strict=True)
        ],
        "history": [
            {channel.name: value for channel, value in zip(HISTORY_CHANNELS, line, strict=True)}
            for line in found.history.tolist()
            if line[0]
        ],
    }
    return msgspec.json.format(msgspec.json.encode(document)).decode()


def _headline(found: Explanation) -> Text:
    score, at = found.published.score, found.published
    when = datetime.fromtimestamp(score.event_time_ms / 1000, UTC)
    text = Text.assemble(
        ("Event ", "bold"), (score.event_id, "bold cyan"), f": {score.type} of {score.viewer_id} in {score.room_id} ",
        f"at {when:%Y-%m-%d %H:%M:%S}.{when.microsecond // 1000:03} UTC; partition {at.partition}, offset {at.offset}.",
    )  # fmt: skip
    if found.repeats:
        text.append(f" The score was published {found.repeats + 1} times, as after a crash.")
    return text


def _score(found: Explanation) -> Table:
    score = found.published.score
    table = Table("", "published", "computed again", "", title="Score", title_justify="left")
    for each in found.fields:
        mark = Text("same", "green") if each.same else Text("DIFFERS", "bold red")
        table.add_row(each.name, _cell(each.published), _cell(each.again), mark)
    table.add_section()
    table.add_row("mode", score.mode)
    table.add_row("arm", score.arm)
    table.add_row("model", score.model)
    table.add_row("engine", score.engine, found.model)
    table.add_row("catalogue", score.features)
    table.add_row("late", _cell(score.late))
    table.add_row("stages, ms", ", ".join(f"{stage} {us / 1000:.1f}" for stage, us in score.latency_us.items()))
    return table


def _features(found: Explanation) -> Table:
    table = Table("#", "feature", title="Features as of the event, itself included", title_justify="left")
    table.add_column("value", justify="right")
    table.add_column("unit")
    table.add_column("that is", justify="right")
    table.add_column("what it says")
    for column, (feature, value) in enumerate(zip(FEATURES, found.features.tolist(), strict=True)):
        style = "" if value else "dim"
        words = in_words(value, feature.unit)
        table.add_row(str(column), feature.name, f"{value:.6g}", feature.unit, words, feature.description, style=style)
    return table


def _history(found: Explanation) -> Table:
    table = Table("#", title="The viewer's last events, newest first", title_justify="left")
    for channel in HISTORY_CHANNELS:
        table.add_column(channel.name.replace("_", " "), justify="right")
    for number, line in enumerate(found.history.tolist()):
        if not line[0]:
            break
        table.add_row(str(number), *_entry(line))
    return table


def _entry(line: list[float]) -> Iterator[str]:
    for channel, value in zip(HISTORY_CHANNELS, line, strict=True):
        if channel.name == "type":
            yield "free gift" if int(value) == FREE_GIFT else EVENT_TYPES[int(value) - 1]
        else:
            yield in_words(value, _UNITS.get(channel.name, "0 or 1"))


def _verdict(found: Explanation) -> Text:
    if found.same:
        return Text(f"The score is the published one, to within {found.tolerance:g}: {found.reason}.", "green")
    wrong = ", ".join(each.name for each in found.fields if not each.same)
    return Text(
        f"The score is NOT the published one: {wrong} differ by more than {found.tolerance:g} ({found.reason}). Do the "
        "recordings begin where the service's state did (else name earlier ones with --after), and is --model the one "
        "that scored?",
        "bold red",
    )


def _cell(value: Any) -> str:
    return f"{value:.7f}" if isinstance(value, float) else "" if value is None else str(value)
