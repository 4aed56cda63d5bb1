"""`make fuzz`: every target, guided by coverage, for some seconds or some inputs; what is found is kept and told.

    python -m tests.fuzz [TARGET ...] [--seconds S | --runs N]     both are for all targets together
    python -m tests.fuzz TARGET --try FILE                         one input again

What was learned is kept in `var/fuzz/`, so that the next run begins where the last one ended.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
KEPT: Final = ROOT / "var/fuzz"
LARGEST: Final = 4_096  # bytes of an input, but for those that begin larger

# How much of the whole each target gets: as much as it has to hide, and as it is fast.
SHARES: Final[Mapping[str, float]] = {
    "decoder": 0.25,
    "records": 0.15,
    "rows": 0.20,
    "stored": 0.12,
    "letters": 0.08,
    "configuration": 0.05,
    "manifest": 0.12,
    "recording": 0.03,
}
_TOKENS: Final = (
    "event_id", "type", "event_time_ms", "room_id", "streamer_id", "viewer_id", "gift", "gift_reversal", "gift_tx_id",
    "amount_minor", "coin_type", "paid", "combo_id", "erase", "raid", "null", "true", "1e400", "-0", r"\ud800",
    "99999999999999999999", r"\u0000", "[kafka]", "[redis]", "password_file", "bootstrap", "score_on", "tiers", "prior",
    "horizons_s", "PAR1", "large",
)  # fmt: skip


class Result(NamedTuple):
    """What became of a target: inputs, seconds, features of coverage, and the file that broke it, if any."""

    target: str
    inputs: int
    seconds: float
    coverage: int
    broken: Path | None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 1 if anything was found."""
    parser = argparse.ArgumentParser("python -m tests.fuzz", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"default: all of {', '.join(SHARES)}")
    parser.add_argument("--seconds", type=float, default=60, help="for all together (default: 60)")
    parser.add_argument("--runs", type=int, default=0, help="inputs for all together, however long it takes")
    parser.add_argument("--try", dest="file", type=Path, help="one input again")
    arguments = parser.parse_args(argv)
    wanted = arguments.targets or list(SHARES)
    if unknown := set(wanted) - set(SHARES):
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(SHARES)}")
    if arguments.file:
        from tests.fuzz.targets import TARGETS

        TARGETS[wanted[0]](arguments.file.read_bytes())
        print("Nothing broke.")
        return 0
    if importlib.util.find_spec("atheris") is None:
        print("This needs atheris, which fuzzes Python under libFuzzer: pip install '.[dev,fuzz]'", file=sys.stderr)
        return 2
    whole = sum(SHARES[target] for target in wanted)
    results = []
    for target in wanted:
        part = SHARES[target] / whole
        results.append(_fuzz(target, part * arguments.seconds, round(part * arguments.runs)))
        _tell(results[-1])
    print(f"{sum(result.inputs for result in results):,} inputs in {sum(result.seconds for result in results):.0f} s")
    return 1 if any(result.broken for result in results) else 0


def _fuzz(target: str, seconds: float, runs: int) -> Result:
    from tests.fuzz.seeds import seeds

    corpus = KEPT / target
    corpus.mkdir(parents=True, exist_ok=True)
    begun = seeds(target)
    for seed in begun:
        (corpus / hashlib.sha1(seed).hexdigest()).write_bytes(seed)
    tokens = KEPT / "tokens"
    tokens.write_text("".join(f'"{_escaped(token)}"\n' for token in _TOKENS))
    limit = f"-runs={runs}" if runs else f"-max_total_time={max(1, round(seconds))}"
    largest = max(LARGEST, *map(len, begun))
    options = [limit, f"-dict={tokens}", f"-max_len={largest}", "-timeout=20", "-print_final_stats=1"]
    options.append(f"-artifact_prefix={KEPT}/{target}-")
    command = [sys.executable, "-m", "tests.fuzz.one", target, *options, str(corpus)]
    # Checked bounds turn a read beyond an array into an error; such code is another than what serves, and cached apart.
    checked = {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(KEPT / "numba")}
    began = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **checked}, capture_output=True, text=True)
    said = done.stdout + done.stderr
    (KEPT / f"{target}.log").write_text(said)
    inputs = re.search(r"stat::number_of_executed_units: (\d+)", said)
    coverage = re.findall(r"\bft: (\d+)", said)
    found = re.search(r"Test unit written to (\S+)", said)
    broken = Path(found[1]) if found else (KEPT / f"{target}.log" if done.returncode else None)
    return Result(
        target,
        int(inputs[1]) if inputs else 0,
        time.monotonic() - began,
        int(coverage[-1]) if coverage else 0,
        broken,
    )


def _tell(result: Result) -> None:
    rate = result.inputs / max(result.seconds, 0.001)
    print(f"{result.target:14} {result.inputs:>12,} inputs {rate:>9,.0f}/s  coverage {result.coverage:>6,}", flush=True)
    if result.broken:
        print(f"  BROKEN by {result.broken}: python -m tests.fuzz {result.target} --try {result.broken}")


def _escaped(token: str) -> str:
    return token.replace("\\", "\\\\").replace('"', '\\"')


if __name__ == "__main__":
    sys.exit(main())
