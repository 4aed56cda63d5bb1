"""An engine for this machine's GPU where the repository has none: built, judged, signed and promoted."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final, NamedTuple

from engines import files
from engines.child import converse, leashed
from engines.gate.verdict import VERDICT_FILE, Verdict, read_verdict
from engines.manifest import Artifact, read_manifest
from engines.model import ModelError
from engines.repository.keys import read_signing_key
from engines.repository.store import Repository
from engines.tensorrt.build import build
from engines.tensorrt.plan import Precision, Settings

log = logging.getLogger(__name__)

_GATE_S: Final = 1_800.0
_LOCK: Final = ".making"
_GATE: Final = leashed("engines.cli")  # one that outlives its worker would take the GPU's time from the next one


class Order(NamedTuple):
    """What is to be made, and how it is judged."""

    artifact: Artifact
    precision: Precision
    traffic: Path
    """Recorded traffic for the gate."""
    key: Path
    """File of the private key that signs what passed."""


def make(order: Order, repository: Repository, missed: str | None, *, gate: tuple[str, ...] = _GATE) -> None:
    """Have a version serve that fits this machine's GPU; raises ModelError if it does not come about. Takes minutes.

    `missed` is what the pointer names and does not serve here, None for nothing. Of several processes that miss it the
    first one works and the others, once it is done, find that another version was promoted, or refused. A version of
    another model is never replaced: whoever promoted it meant it. `gate` is the command that judges.
    """
    key, lock = read_signing_key(order.key), repository.root / _LOCK
    try:
        repository.root.mkdir(parents=True, exist_ok=True)
        lock.touch()
        asked = lock.stat().st_mtime  # by the clock that dates a verdict as well: a file server's may be off
    except OSError as error:
        raise ModelError(files.why(repository.root, error)) from error
    with files.locked(lock):
        if repository.pointer().serving != missed:
            return
        if missed is not None and _other_model(repository.folder(missed), order.artifact):
            raise ModelError(
                f"Version {missed}, which is promoted, is of another model than {order.artifact.manifest.name}: "
                "nothing is built in its place. Name its model in model.path, or promote a version that can serve here."
            )
        log.info("No version fits this machine's GPU: building one. Scores come from the CPU meanwhile.")
        folder = build(order.artifact, Settings(precision=order.precision), repository.root)
        version = repository.find(str(folder))
        if version == missed:
            raise ModelError(
                f"Version {version} was made for this GPU and is promoted: that it does not serve has another "
                "reason, which the log says."
            )
        verdict = _judged(folder, asked)  # by another process, while this one waited for the lock
        if verdict is None:
            log.info("Version %s is built; the gate judges it on %s.", version, order.traffic)
            command = [*gate, "verify", version, "--traffic", str(order.traffic), "--repository", str(repository.root)]
            ended = converse(command, b"", timeout_s=_GATE_S, heard=lambda line: None)
            verdict = _judged(folder, asked)  # its status does not tell: a crash is 1 as well
            if verdict is None:
                raise ModelError(f"The gate could not judge version {version}: it {ended.how} ({ended.last_words}).")
        if not verdict.passed:
            raise ModelError(
                f"Version {version} was built and did not pass the gate: {', '.join(verdict.failed)}. "
                f"{folder}/report.md says how far off. Scores go on coming from the CPU."
            )
        if repository.pointer().serving == missed:  # nobody has promoted another one meanwhile
            repository.promote(version, key, reason="built because no version fitted the GPU")


def _other_model(promoted: Path, wanted: Artifact) -> bool:
    """Whether what is promoted takes the same features and is another model: it may serve again, or elsewhere."""
    try:
        manifest = read_manifest(promoted)
    except ModelError:  # gone, or damaged: nothing is lost with it
        return False
    return manifest.features == wanted.manifest.features and manifest.sha256 != wanted.manifest.sha256


def _judged(folder: Path, since: float) -> Verdict | None:
    """Return the gate's verdict if it was written after a time, in seconds since 1970."""
    path = folder / VERDICT_FILE
    return read_verdict(folder) if path.exists() and path.stat().st_mtime > since else None
