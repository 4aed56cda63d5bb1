"""Inputs to begin from: good ones made by the product itself, and those that once broke something."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Final

from engines.manifest import MANIFEST_FILE
from features.events import EVENT_TYPES, Event, encode
from features.packing import TABLES
from replay.recording import Record, Writer
from tests.features.harness import Rows, engine_of, run_batch
from tests.features.traffic import random_stream
from tests.fuzz.found import FOUND
from tests.fuzz.targets import REFERENCE_MODEL

_SHIPPED: Final = Path(__file__).parents[2] / "deploy/tipstream.toml"


@cache
def seeds(target: str) -> tuple[bytes, ...]:
    """Inputs for a target by its name."""
    return (*_MADE[target](), *FOUND.get(target, ()))


def _records() -> list[bytes]:
    lines = [
        (event.viewer_id or "").encode() + b"\t" + encode(event)
        for event in (record.event for record in random_stream(1, size=120, viewers=20, skew=1.5))
    ]
    every = [
        Event("e", kind, 1_700_000_000_000, "r", "s", "v", "visit", "web", "jp", ("subscriber",), 3, "feed", 5, 17, 2,
              100, "tx", "rose", 10, "paid", "combo", True, 1, 3, 9, 9, "music", 60_000)
        for kind in EVENT_TYPES
    ]  # fmt: skip
    whole = [b"v\t" + encode(event) for event in every]
    return [*whole, b"\n".join(lines[:8]), b"\n".join(lines[8:16]), b"v\t[]", b"v\t{}", b"v\tnull", b""]


def _letters() -> list[bytes]:
    return [
        b"schema\0It is no event.\0key\0value",
        b"syntax\0" + "é".encode() * 300 + b"\0\0",
        b"oversize\0It is.\0k\0large",
    ]


def _stored_rows() -> dict[str, list[bytes]]:
    rows = Rows()
    run_batch(engine_of(2), rows, random_stream(2, size=200, viewers=20, skew=1.5))
    viewers = [fields for fields in rows.viewers.values() if "" in fields]
    return {
        "viewer": [fields[""] for fields in viewers][:4],
        "pair": [row for fields in viewers for name, row in fields.items() if name][:4],
        "room": list(rows.rooms.values())[:4],
    }


def _rows() -> list[bytes]:
    return [bytes([TABLES.index(table)]) + row for table, found in _stored_rows().items() for row in found]


def _stored() -> list[bytes]:
    three = zip(*_stored_rows().values(), strict=False)
    return [b"".join(len(row).to_bytes(2, "little") + row for row in some) + bytes(range(8)) for some in three]


def _configuration() -> list[bytes]:
    variables = b"KAFKA__PROTOCOL=SASL_SSL\nKAFKA__USERNAME=u\nKAFKA__PASSWORD=p\nREDIS__URL=rediss://h:1/2\nDRAIN_S=2"
    return [_SHIPPED.read_bytes() + b"\0" + variables, b'[batching]\nscore_on = ["gift"]\0BATCHING__MAX_BATCH=8', b""]


def _manifest() -> list[bytes]:
    return [(REFERENCE_MODEL / MANIFEST_FILE).read_bytes(), b"{}"]


def _recording() -> list[bytes]:
    full = Record(b"k", b"v", 3, 17, [("row", b"1"), ("row", b"")], 5, 4)
    bare = Record(None, None, None, None, None, 6, None)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seed.parquet"
        with Writer(path, source="a seed", metadata={"topic": "t"}) as writer:
            writer.write([full, bare])
        good = path.read_bytes()
    # A column's name that is no text was raised by Arrow as it came; so was a page that is not there.
    return [good, good.replace(b"key", b"k\xdcy"), good[:4] + good[5:], b"PAR1PAR1"]


_MADE: Final = {
    "decoder": _records,
    "records": _records,
    "letters": _letters,
    "rows": _rows,
    "stored": _stored,
    "configuration": _configuration,
    "manifest": _manifest,
    "recording": _recording,
}
