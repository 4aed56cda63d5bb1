"""Inputs that once broke something, by target; each is tried again in every run of the tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

FOUND: Final[Mapping[str, Sequence[bytes]]] = {
    "letters": (
        b"syntax\0" + b"\xc3\xa9" * 300 + b"\0\0",  # the reason was cut in the middle of a character
        b"\x80syntax\0" + b"\xc3\xa9" * 300 + b"\0\0",
    ),
    "manifest": (
        b'{"\x80ame": "m"}',  # UnicodeDecodeError
        b'{"name": ' + b"[" * 3_000,  # RecursionError
    ),
    "configuration": (
        b"a = " + b"[" * 3_000,  # RecursionError
        b"drain_s = " + b"9" * 5_000,  # ValueError: too many digits for an int
        b"\0REDIS__URL=redis://[::1",  # ValueError: half an IPv6 address
        b"\0REDIS__URL=redis://h:99999/0",  # was taken, and failed later, when it was connected to
        b"\0REDIS__URL=rediss://h:1/0?ssl_cert_reqs=none",  # was taken, and checked no certificate
        b"\0KAFKA__PASSWORD_FILE=\x01\x00",
    ),
}
