"""The repository: a folder with one folder a version, whole and never changed, and a pointer to the one that serves.

    ROOT/<id>/            a model's or engine's folder, its gate's verdict and its seal
    ROOT/pointer.json     which one serves, which one did before, and who changed it when

`tipstream-engine build` writes engines there; models and engines from elsewhere are copied in. Several processes may
promote, roll back and clear away at once: each step holds a lock, and is there whole or not at all.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from engines import files
from engines.folder import ENGINE_FILES, MODEL_FILES, contents, is_engine, load, read_either
from engines.gate.verdict import VERDICT_FILE, Verdict, read_verdict
from engines.manifest import MANIFEST_FILE, Artifact, Manifest, read, read_manifest
from engines.model import ModelError
from engines.repository import pointer, seal
from engines.repository.keys import SigningKey, TrustedKeys, read_trusted
from engines.repository.pointer import POINTER_FILE, Pointer, Token
from engines.repository.seal import SEAL_FILE, Seal
from engines.tensorrt.plan import FACTS_FILE, Engine, Facts, read_engine, read_facts

log = logging.getLogger(__name__)

ID_LENGTH: Final = 16
_LOCK: Final = ".lock"
_NEW: Final = ".new-"
_GONE: Final = ".gone-"
_CHANGED: Final = (
    "Version {} was changed after it was signed: copy it from its origin, or clear it away and build it again."
)
_OTHERWISE: Final = "To have it serve all the same, give the reason with --force."
_TRAVELS: Final = (*ENGINE_FILES, VERDICT_FILE, SEAL_FILE, "MODEL_CARD.md")


class Version(NamedTuple):
    """One version as it lies there."""

    id: str
    folder: Path
    manifest: Manifest
    facts: Facts | None
    """Of the TensorRT engine; None for a model alone, which ONNX Runtime runs."""
    verdict: Verdict | None
    """The gate's latest; None if it was not judged."""


class Repository:
    """The versions below a folder."""

    def __init__(self, root: Path, trusted: Path | None = None) -> None:
        """`trusted` is a file of public keys; without one no version can be opened. Nothing is read yet."""
        self.root = root
        self._trusted = trusted

    def token(self) -> Token:
        """Look whether anything was promoted or rolled back, cheaply: another token means to read the pointer."""
        return pointer.token(self.root)

    def pointer(self) -> Pointer:
        """Return which version serves; raises ModelError if the file is damaged."""
        return pointer.read(self.root)

    def folder(self, version: str) -> Path:
        """Return a version's folder, whether it is there or not."""
        return self.root / version

    def versions(self) -> list[Version]:
        """Return every version, the latest made first. One that cannot be read is left out, and a warning says so."""
        found = []
        for version in self._ids():
            try:
                found.append(self.version(version))
            except ModelError as error:
                log.warning("Version %s is damaged: %s", version, error)
        return sorted(found, key=_made, reverse=True)

    def version(self, version: str) -> Version:
        """Look at one version without checking it; raises ModelError. A verdict that cannot be read counts as none."""
        folder = self.folder(version)
        facts = read_facts(folder) if is_engine(folder) else None
        try:
            verdict = read_verdict(folder)
        except ModelError as error:
            log.warning("%s", error)
            verdict = None
        return Version(version, folder, read_manifest(folder), facts, verdict)

    def find(self, name: str) -> str:
        """Return the id that begins with `name`, or that of the folder which `name` is; raises ModelError."""
        if name in ("serving", "previous"):
            current: str | None = getattr(self.pointer(), name)
            if current is None:
                raise ModelError(f"{self.root} has no {name} version yet. Promote one.")
            self._require(current)
            return current
        path = Path(name)
        if path.parent.resolve() == self.root.resolve() and (path / MANIFEST_FILE).exists():
            return path.resolve().name
        matching = [each for each in self._ids() if each.startswith(name)]
        if len(matching) == 1:
            return matching[0]
        if not matching and len(path.parts) > 1:
            raise ModelError(f"There is no model or engine at {path}. Name its folder, or the beginning of its id.")
        raise ModelError(
            f"{len(matching) or 'No'} version{'s' if matching else ''} in {self.root} begin{'' if matching else 's'} "
            f"with {name!r}. `tipstream-engine list {self.root}` shows them all."
        )

    def open(self, version: str, *, features: str) -> Artifact | Engine:
        """Read a version that may serve: its seal is checked first, and then every byte against the seal.

        What is returned was parsed from the very bytes that were checked. An engine is to be probed before it is
        loaded. Raises ModelError, in words, if a trusted key did not sign it, if it was changed since, or if it was
        made for a feature catalogue other than that with fingerprint `features`.
        """
        folder, signed = self.folder(version), self.seal(version)
        if FACTS_FILE in signed.files:
            return read_engine(folder, features=features, fetch=seal.reader(signed))
        return read(folder, features=features, fetch=seal.reader(signed))

    def seal(self, version: str) -> Seal:
        """Return a version's seal, its signature checked; raises ModelError."""
        self._require(version)
        return seal.read(self.folder(version), version, self._trusted_keys())

    def vouched(self, version: str) -> Seal:
        """Return a version's seal once every byte was checked against it; raises ModelError."""
        signed = self.seal(version)
        try:
            whole = signed.files == contents(self.folder(version))
        except ModelError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            whole = False
        if not whole:
            raise ModelError(_CHANGED.format(version))
        return signed

    def sealed(self, version: str) -> bool:
        """Whether a version bears a seal, good or not."""
        return (self.folder(version) / SEAL_FILE).exists()

    def add(self, source: Path) -> str:
        """Copy a model's or engine's folder in, whole or not at all, and return its id; raises ModelError.

        Of one that is there already only a verdict and a seal are taken, where it has none.
        """
        wanted = contents(source)
        version = _id(source, wanted)
        read_either(source, features=read_manifest(source).features)  # what cannot be read is not worth a place
        with self._writing(make=True):
            folder = self.folder(version)
            if folder.is_dir():
                if contents(folder) != wanted:
                    raise ModelError(
                        f"{folder} was built from the same model and settings as {source}, but is another build. "
                        "Clear it away first (`tipstream-engine gc`), or go on with it."
                    )
                for name in (VERDICT_FILE, SEAL_FILE):  # it may have been judged and signed since it was copied
                    if (source / name).exists() and not (folder / name).exists():
                        files.replace(folder / name, (source / name).read_bytes())
                return version
            new = self.root / f"{_NEW}{version}"
            shutil.rmtree(new, ignore_errors=True)  # what a killed copy left; the lock says that none is under way
            new.mkdir()
            try:
                for name in _TRAVELS:
                    if (source / name).exists():
                        files.write(new / name, (source / name).read_bytes())
                if contents(new) != wanted:
                    raise ModelError(f"{source} changed while it was copied. Copy it again.")
                files.sync(new)
                new.rename(folder)
                files.sync(self.root)
            finally:
                shutil.rmtree(new, ignore_errors=True)
        return version

    def sign(self, version: str, key: SigningKey, *, force: str = "") -> Seal:
        """Seal a version that passed the gate, or is forced for a stated reason; raises ModelError otherwise."""
        with self._writing():
            return self._sign(version, key, force)

    def promote(self, version: str, key: SigningKey | None = None, *, reason: str = "", force: str = "") -> Pointer:
        """Have a version serve, and the one that does now be the previous one; raises ModelError.

        It must have passed the gate, unless `force` says why it may serve all the same. Without a key it must have
        been signed before, by one that is trusted here. The version that served before stays there, to go back to.
        """
        with self._writing():
            current = self.pointer()
            if current.serving == version:
                raise ModelError(f"Version {version} is the one that serves already.")
            objection = self._objection(version)
            if key is not None and (force or objection):
                self._sign(version, key, force)
            elif objection:
                raise ModelError(objection)
            changed = current.promoted(version, force or reason)
            pointer.write(self.root, changed)
        return changed

    def rollback(self, reason: str = "") -> Pointer:
        """Have the previous version serve again; raises ModelError if there is none, or if it was changed."""
        with self._writing():
            current = self.pointer()
            changed = current.rolled_back(reason)
            assert changed.serving is not None
            self.vouched(changed.serving)
            pointer.write(self.root, changed)
        return changed

    def collect(self, *, keep: int, remove: bool = True) -> list[Version]:
        """Clear away all versions but serving, previous and the latest `keep` others; return those that went.

        `remove=False` only looks. A version is renamed before it is deleted, so that none is ever seen half gone.
        """
        left = "What went is gone, and the rest is as it was: clear away again." if remove else "Nothing was changed."
        with self._writing(left):
            current = self.pointer()
            others = [each for each in self.versions() if each.id not in (current.serving, current.previous)]
            if remove:
                for old in (*self.root.glob(f"{_GONE}*"), *self.root.glob(f"{_NEW}*")):  # of a step that was killed
                    shutil.rmtree(old, ignore_errors=True)
                self._remove_unfinished()
                for each in others[keep:]:
                    gone = self.root / f"{_GONE}{each.id}"
                    each.folder.rename(gone)
                    shutil.rmtree(gone, ignore_errors=True)
        return others[keep:]

    def _remove_unfinished(self) -> None:
        """Remove what was being written by who was killed: nobody holds the lock under which it was written."""
        for left in self.root.glob(f"*/.{SEAL_FILE}.new-*"):  # under the lock that is held
            left.unlink(missing_ok=True)
        for left in self.root.glob(".*.new-*"):
            name = left.name.rpartition(".new-")[0]
            if name == f".{POINTER_FILE}":  # its lock is the one that is held
                left.unlink(missing_ok=True)
                continue
            lock = name if left.is_dir() else name[1:]  # `files.replace` puts a dot before a file's name
            with suppress(BlockingIOError), files.locked(self.root / f"{lock}.lock", wait=False):
                if left.is_dir():
                    shutil.rmtree(left, ignore_errors=True)
                else:
                    left.unlink(missing_ok=True)

    def _ids(self) -> list[str]:
        return sorted(path.parent.name for path in self.root.glob(f"[!.]*/{MANIFEST_FILE}"))

    def _sign(self, version: str, key: SigningKey, force: str) -> Seal:
        if self._trusted is not None and key.id not in self._trusted_keys():  # the seal that is there may be a good one
            raise ModelError(
                f"Key {key.id} is not trusted here: {self._trusted} does not hold its public half. Add that, or sign "
                "with a key that is."
            )
        folder = self.folder(version)
        found, verdict = contents(folder), read_verdict(folder)
        if (own := _id(folder, found)) != version:
            raise ModelError(
                f"{folder} holds version {own}: the folder was renamed, or its files are another version's. If it is "
                "yours, call it by that id; else copy it from its origin."
            )
        refused = self._changed(version, found) or _refusal(version, verdict, found)
        if refused and not force:
            raise ModelError(refused)
        # Whoever forces means the gate's verdict, not files that contradict each other or that nobody can load.
        opened = read_either(folder, features=read_manifest(folder).features)
        if isinstance(opened, Artifact):
            load(opened).close()
        made = Seal(
            version=version,
            files=found,
            gate=verdict.judged if verdict and not refused else "",
            forced=force if refused else "",
            sealed=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        )
        files.replace(folder / SEAL_FILE, seal.pack(made, key))
        return made

    def _changed(self, version: str, found: Mapping[str, str]) -> str | None:
        """Tell that a version is not what was signed here before; None if it is, or was not."""
        try:
            signed = self.seal(version)
        except ModelError:
            return None
        return None if signed.files == found else f"{_CHANGED.format(version)} {_OTHERWISE}"

    def _require(self, version: str) -> None:
        if not self.folder(version).is_dir():
            raise ModelError(f"Version {version} is not in {self.root}. Roll back, or promote one that is.")

    def _objection(self, version: str) -> str | None:
        """Return what speaks against a version, its seal or the gate's latest verdict; None for nothing."""
        try:
            signed = self.vouched(version)
        except ModelError as error:
            return str(error)
        verdict = read_verdict(self.folder(version))
        if verdict is None or verdict.passed or signed.forced:
            return None
        return _refusal(version, verdict, signed.files)

    def _trusted_keys(self) -> TrustedKeys:
        if self._trusted is None:
            raise ModelError("No keys are trusted here, so no version may serve. Name a file of public keys.")
        return read_trusted(self._trusted)

    @contextmanager
    def _writing(self, left: str = "Nothing was changed.", *, make: bool = False) -> Iterator[None]:
        """Hold the repository's lock; what the disk refuses becomes a sentence that ends with how things were left."""
        if not make and not self.root.is_dir():
            raise ModelError(f"There is no repository at {self.root}. Name yours with --repository.")
        try:
            if make:
                self.root.mkdir(parents=True, exist_ok=True)
            with files.locked(self.root / _LOCK):
                yield
        except OSError as error:
            raise ModelError(f"{files.why(self.root, error)} {left}") from error


def _id(folder: Path, found: Mapping[str, str]) -> str:
    if FACTS_FILE in found:
        return read_facts(folder).key[:ID_LENGTH]
    return hashlib.sha256("".join(found[name] for name in MODEL_FILES).encode()).hexdigest()[:ID_LENGTH]


def _refusal(version: str, verdict: Verdict | None, found: Mapping[str, str]) -> str | None:
    """Why the gate's verdict does not let a version serve; None if it does."""
    if verdict is None:
        return (
            f"Version {version} has not been through the gate. Run `tipstream-engine verify {version} --traffic "
            f"RECORDING.parquet`. {_OTHERWISE}"
        )
    if verdict.files != found:
        return (
            f"The gate judged other bytes than lie in version {version} now: something was replaced since. Run "
            f"`tipstream-engine verify` again. {_OTHERWISE}"
        )
    if not verdict.passed:
        failed = ", ".join(verdict.failed)
        return f"Version {version} did not pass the gate: {failed}. Its report says how far off. {_OTHERWISE}"
    return None


def _made(version: Version) -> str:
    return version.facts.created if version.facts else version.manifest.created
