"""One target under libFuzzer, in a process of its own, because libFuzzer ends the process that it runs in.

    python -m tests.fuzz.one TARGET [libFuzzer's options] [CORPUS]

Modules that Numba compiles are not watched for coverage: they would no longer compile.
"""

from __future__ import annotations

import sys
from typing import Final

import atheris

WATCHED: Final = ("features", "engines", "scorer", "replay", "tests.fuzz")
COMPILED: Final = ("compiled", "fold", "kernel", "packing", "quantities", "reading", "shares")

if __name__ == "__main__":
    with atheris.instrument_imports(list(WATCHED), [f"features.{name}" for name in COMPILED]):
        from tests.fuzz.seeds import seeds
        from tests.fuzz.targets import TARGETS
    name = sys.argv.pop(1)
    target = TARGETS[name]
    for seed in seeds(name):  # what it compiles, it compiles now: libFuzzer would take the first input for a slow one
        target(seed)
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
