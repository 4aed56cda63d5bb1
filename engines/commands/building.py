"""The commands that make engines and judge them: `build` and `verify`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, Final

from rich.table import Table
from rich.text import Text

from engines import files
from engines.commands.numbers import amount, ascending, positive
from engines.commands.releasing import add_repository, name_version
from engines.commands.tables import add, show, status
from engines.gate.energy import Plan
from engines.gate.limits import Limits, read_limits
from engines.gate.verdict import Verdict, write_verdict
from engines.manifest import Artifact, read, read_manifest
from engines.model import BUCKETS, ModelError
from engines.repository.store import Repository, Version

if TYPE_CHECKING:
    from engines.tensorrt.calibrate import Calibration

_BUILD: Final = """Build a TensorRT engine for this machine's GPU, in a process of its own, and not at all if an engine
of the same model, TensorRT, GPU and settings is there. Before it gets its name the engine is loaded and tested in a
second process, because some plans that build without an error end the process that loads them. Needs an NVIDIA GPU and
the extra `tipstream[gpu]`; a build takes seconds to minutes, and later ones are faster (what was measured is kept)."""
_BUILD_EXAMPLES: Final = """examples:
  tipstream-engine build var/models/mine                                            FP32 (TF32 where the GPU has it)
  tipstream-engine build var/models/mine --precision fp16                           faster on older GPUs; see `verify`
  tipstream-engine build var/models/mine --precision int8 --traffic var/dataset     calibrated on a labelled set
"""
_VERIFY: Final = """Put a model or an engine to the test on recorded traffic: against the FP32 reference (ranking,
calibration, tiers, largest change), whether a row's score depends on its slot, its neighbours or its bucket, and how
fast it is beside the version that serves. Writes verdict.json into the version's folder, where `promote` looks for it,
and report.md and report.html. FP16 and INT8 pass only if they are faster than the FP32 engine of the same model, which
must lie in the same repository. A folder from elsewhere is copied into the repository first."""
_VERIFY_EXAMPLES: Final = """examples:
  tipstream-engine verify 3f2a --traffic yesterday.parquet                 a version of the repository, a recording
  tipstream-engine verify var/models/mine --traffic yesterday.parquet      a model's folder, for the CPU
  tipstream-engine verify 3f2a --traffic var/dataset --energy 10           a set that `tipstream-replay dataset` made;
                                                                           energy over windows of 10 s as well
  tipstream-engine verify 3f2a --traffic day.parquet --limits mine.toml    other limits: engines/gate/limits.py has all

exit status: 0 passed, 1 did not pass, 2 could not be judged
"""


def add_commands(commands: Any) -> None:
    """Add them to the parser's commands."""
    raw = argparse.RawDescriptionHelpFormatter
    build = commands.add_parser(
        "build",
        help="build a TensorRT engine for this machine's GPU",
        description=_BUILD,
        epilog=_BUILD_EXAMPLES,
        formatter_class=raw,
    )
    build.set_defaults(run=_build)
    build.add_argument("folder", type=Path, metavar="MODEL", help="model folder, as `train` wrote it")
    build.add_argument("--precision", choices=("fp32", "fp16", "int8"), default="fp32", help="default: %(default)s")
    build.add_argument("--buckets", type=ascending, default=BUCKETS, metavar="N,N", help="batch sizes, ascending")
    build.add_argument("--lengths", type=ascending, default=(), metavar="N,N", help="history lengths, e.g. 16,32")
    build.add_argument("--wide", action="store_true", help="one profile for all sizes, for comparison")
    build.add_argument(
        "--level",
        type=int,
        choices=range(6),
        default=3,
        help="how many kernels are compared, 5 being the most (%(default)s, TensorRT's own default); at 5, TensorRT "
        "8.6 makes FP16 plans that end the process that loads them",
    )
    build.add_argument("--timeout", type=amount, default=900.0, metavar="S", help="seconds it may take (%(default)g)")
    build.add_argument("--traffic", type=Path, metavar="SHARDS", help="labelled set to calibrate INT8 on")
    add_repository(build)

    verify = commands.add_parser(
        "verify",
        help="put a model or engine through the gate",
        description=_VERIFY,
        epilog=_VERIFY_EXAMPLES,
        formatter_class=raw,
    )
    verify.set_defaults(run=_verify)
    verify.add_argument("version", metavar="VERSION", help="the beginning of its id, or a model's folder")
    verify.add_argument(
        "--traffic",
        type=Path,
        required=True,
        metavar="RECORDING",
        help="what `tipstream-replay record` wrote, or the folder of a labelled set",
    )
    verify.add_argument("--against", metavar="VERSION", help="compare with this one (default: the one that serves)")
    verify.add_argument("--out", type=Path, metavar="FOLDER", help="for the report (default: the version's folder)")
    verify.add_argument("--limits", type=Path, metavar="FILE", help="TOML file with limits other than the default ones")
    verify.add_argument(
        "--runs", type=positive, default=300, metavar="N", help="calls in a block, five each (%(default)s)"
    )
    verify.add_argument("--energy", type=amount, default=0.0, metavar="S", help="measure energy over windows of S s")
    verify.add_argument(
        "--grid", type=amount, default=475.0, metavar="G", help="gCO2e a kWh (%(default)g: the world's)"
    )
    verify.add_argument("--pue", type=amount, default=1.0, metavar="X", help="the data centre's PUE (%(default)g)")
    add_repository(verify)


def _build(options: argparse.Namespace) -> None:
    from engines.tensorrt.build import build  # brings ONNX Runtime, which the other commands do without
    from engines.tensorrt.plan import Settings, read_facts

    artifact = read(options.folder, features=read_manifest(options.folder).features)
    settings = Settings(
        precision=options.precision,
        buckets=options.buckets,
        lengths=options.lengths,
        wide=options.wide,
        level=options.level,
    )
    calibration = _calibration(artifact, options.traffic) if options.precision == "int8" else None
    with status() as say:
        folder = build(
            artifact,
            settings,
            options.repository,
            calibration=calibration,
            timeout_s=options.timeout,
            progress=lambda step, seconds: say(f"{step} ({seconds:.0f} s)"),
        )
    facts = read_facts(folder)
    print(
        f"{folder}: {facts.settings.precision} for {facts.gpu}, TensorRT {facts.tensorrt}, built in {facts.build_s} s. "
        f"Next: tipstream-engine verify {folder.name} --traffic RECORDING.parquet"
    )
    if facts.settings.precision != "fp32" and _exact(Repository(options.repository), folder) is None:
        print("The gate compares it with the FP32 engine of the same model: build that, too.")


def _calibration(artifact: Artifact, traffic: Path | None) -> Calibration:
    if traffic is None:
        raise ModelError(
            "INT8 must be calibrated: name a labelled set with --traffic, as `tipstream-replay dataset` makes it."
        )
    from engines.tensorrt.calibrate import read_calibration

    return read_calibration(artifact, traffic)


def _verify(options: argparse.Namespace) -> int:
    from engines.gate import report
    from engines.gate.traffic import read_traffic
    from engines.gate.verify import Options, verify

    repository = Repository(options.repository)
    version = name_version(repository, options.version)
    folder = repository.folder(version)
    against = repository.find(options.against) if options.against else repository.pointer().serving
    limits = read_limits(options.limits) if options.limits else Limits()
    energy = None
    if options.energy:
        energy = Plan(seconds=options.energy, grid_g_per_kwh=options.grid, pue=options.pue)
    out = options.out or folder
    _try(folder, files.why)  # for the verdict
    _try(out, _unwritable)
    with status() as say:
        traffic = read_traffic(options.traffic, read_manifest(folder), progress=say)
        verdict = verify(
            folder,
            traffic,
            against=repository.folder(against) if against else None,
            exact=_exact(repository, folder),
            options=Options(limits, options.runs, energy),
            progress=say,
        )
    if not folder.is_dir():
        raise ModelError(f"Version {version} was cleared away while it was judged. Bring it in and verify it again.")
    write_verdict(folder, verdict)
    _write_report(out, report.markdown(verdict), report.page(verdict))
    _print(version, verdict, out)
    if energy and verdict.energy_note:
        print(f"Energy was not measured: {verdict.energy_note}")
    return 0 if verdict.passed else 1


def _exact(repository: Repository, folder: Path) -> Path | None:
    """Find the FP32 engine of the same model for the same GPU and TensorRT, the latest built."""
    from engines.folder import is_engine
    from engines.tensorrt.plan import read_facts

    if not is_engine(folder):
        return None
    own, model = read_facts(folder), read_manifest(folder).sha256

    def fits(version: Version) -> bool:
        facts = version.facts
        return (
            facts is not None
            and version.manifest.sha256 == model
            and facts.settings.precision == "fp32"
            and (facts.gpu, facts.tensorrt) == (own.gpu, own.tensorrt)
        )

    return next((version.folder for version in repository.versions() if fits(version)), None)


def _try(folder: Path, why: Callable[[Path, OSError], str]) -> None:
    """Make a folder that can be written to, before minutes are spent on what could not be kept."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ModelError(why(folder, error)) from error


def _write_report(folder: Path, markdown: str, page: str) -> None:
    try:
        files.replace(folder / "report.md", markdown.encode())
        files.replace(folder / "report.html", page.encode())
    except OSError as error:
        raise ModelError(_unwritable(folder, error)) from error


def _unwritable(folder: Path, error: OSError) -> str:
    return f"The report cannot be written to {folder} ({error.strerror}). Name another --out."


def _print(version: str, verdict: Verdict, out: Path) -> None:
    table = Table("check", "found", "limit", "", title=Text(verdict.subject, "table.title"))
    for check in verdict.checks:
        add(table, check.name, check.found, check.limit, "passed" if check.passed else Text("FAILED", "bold red"))
    show(table)
    failed = len(verdict.failed)
    outcome = f"did not pass the gate: {failed} of {len(verdict.checks)} checks failed" if failed else "passed the gate"
    print(f"Version {version} {outcome}. {out / 'report.html'}: open it in a browser.", end=" ")
    print("" if failed else f"Next: tipstream-engine promote {version}")
