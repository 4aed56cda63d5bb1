"""The commands about the repository: `list`, `keygen`, `sign`, `promote`, `rollback` and `gc`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

from rich.table import Column, Table
from rich.text import Text

from engines.commands.numbers import whole
from engines.commands.tables import add, console, show
from engines.gate.verdict import Verdict
from engines.manifest import MANIFEST_FILE
from engines.model import ModelError
from engines.repository.keys import SIGNING_FILE, TRUSTED_FILE, SigningKey, generate, read_signing_key
from engines.repository.pointer import Pointer
from engines.repository.store import Repository, Version

REPOSITORY: Final = Path("var/engines")
KEYS: Final = Path("var/keys")

_PROMOTE: Final = """Have a version serve. Running services that follow the repository swap it in between two batches,
and keep the version that served until now loaded, so that `rollback` takes effect at once. What has not passed the gate
is refused. The version is signed first, with the key in --keys; where there is none, it must have been signed elsewhere
by a key that is trusted here. A folder from elsewhere is copied into the repository."""
_PROMOTE_EXAMPLES: Final = """examples:
  tipstream-engine promote 3f2a --reason "trained on October"
  tipstream-engine promote var/models/mine                            a model for the CPU, copied in
  tipstream-engine promote 3f2a --force "hotfix, gate to follow"      not through the gate; the reason is signed with it
"""
_GC: Final = """Clear away versions that nobody needs: neither serving nor previous, nor among the latest --keep others,
and what builds and copies that were killed have left. Versions that run stay in memory as they are."""


def add_repository(parser: argparse.ArgumentParser) -> None:
    """Add the option that says where versions lie."""
    parser.add_argument(
        "--repository", type=Path, default=REPOSITORY, metavar="FOLDER", help="where versions lie (%(default)s)"
    )


def add_commands(commands: Any) -> None:
    """Add them to the parser's commands."""
    raw = argparse.RawDescriptionHelpFormatter
    listing = commands.add_parser(
        "list",
        help="list versions",
        description="List the models and engines in a repository, or below any folder, the latest made first: what "
        "they run on, whether they passed the gate and are signed, and which one serves.",
    )
    listing.set_defaults(run=_list)
    listing.add_argument("folder", type=Path, nargs="?", default=REPOSITORY, metavar="FOLDER", help="(%(default)s)")
    _add_keys(listing)

    keygen = commands.add_parser(
        "keygen",
        help="make a pair of keys, once",
        description=f"Make {SIGNING_FILE}, which decides what may serve and belongs to whoever judges versions, and "
        f"{TRUSTED_FILE}, to be copied to every machine that serves. Run again after moving {SIGNING_FILE} away, it "
        "adds a second key to those that are trusted.",
    )
    keygen.set_defaults(run=_keygen)
    _add_keys(keygen)

    sign = commands.add_parser(
        "sign",
        help="sign a version without promoting it",
        description="Sign a version that passed the gate, so that its folder can be copied to machines that have no "
        "signing key and be promoted there.",
    )
    sign.set_defaults(run=_sign)
    _add_version(sign)
    sign.add_argument("--force", default="", metavar="REASON", help="sign what did not pass the gate, and say why")

    promote = commands.add_parser(
        "promote", help="have a version serve", description=_PROMOTE, epilog=_PROMOTE_EXAMPLES, formatter_class=raw
    )
    promote.set_defaults(run=_promote)
    _add_version(promote)
    promote.add_argument("--reason", default="", help="for the audit trail")
    promote.add_argument(
        "--force", default="", metavar="REASON", help="promote what did not pass the gate, and say why"
    )

    back = commands.add_parser(
        "rollback",
        help="have the previous version serve again",
        description="Exchange the serving and the previous version. A second rollback goes forward again.",
    )
    back.set_defaults(run=_rollback)
    back.add_argument("--reason", default="", help="for the audit trail")
    add_repository(back)
    _add_keys(back)

    gc = commands.add_parser("gc", help="clear away old versions", description=_GC, formatter_class=raw)
    gc.set_defaults(run=_gc)
    gc.add_argument("--keep", type=whole, default=3, metavar="N", help="of those that do not serve (%(default)s)")
    gc.add_argument("--dry-run", action="store_true", help="only say what would go")
    add_repository(gc)


def _add_keys(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keys",
        type=Path,
        default=KEYS,
        metavar="FOLDER",
        help=f"holds {TRUSTED_FILE}, and {SIGNING_FILE} where versions are signed (%(default)s)",
    )


def _add_version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("version", metavar="VERSION", help="the beginning of its id, or its folder")
    add_repository(parser)
    _add_keys(parser)


def _list(options: argparse.Namespace) -> None:
    folders = sorted({path.parent.parent for path in options.folder.rglob(f"[!.]*/{MANIFEST_FILE}")})
    if not folders:
        raise ModelError(f"There is no model below {options.folder}. `tipstream-engine train` writes one.")
    width = console().width
    wide = width >= 120
    table = Table(
        Column("", overflow="fold"),
        Column("version", no_wrap=True),  # whole: it is what the other commands are given
        Column("model", overflow="fold"),
        Column("made", overflow="fold", width=16 if wide else 10 if width >= 80 else 5),  # no date folds within a part
        Column("runs on", overflow="fold"),
        Column("PR-AUC", no_wrap=True),
        Column("gate", no_wrap=True),
        Column("signed", overflow="fold"),
        padding=(0, int(wide)),
        show_edge=wide,
    )
    missing = []
    for folder in folders:
        repository = Repository(folder, options.keys / TRUSTED_FILE)
        current, versions = repository.pointer(), repository.versions()
        for version in versions:
            add(table, *_row(repository, current, version))
        if current.serving not in (None, *(version.id for version in versions)):
            missing.append(f"Version {current.serving} is to serve, and cannot be read. Roll back, or promote another.")
    show(table)
    for line in missing:
        print(line)


def _row(repository: Repository, current: Pointer, version: Version) -> tuple[str | Text, ...]:
    manifest, facts = version.manifest, version.facts
    marks: dict[str | None, str | Text] = {
        current.serving: Text("serving", "bold green"),
        current.previous: "previous",
    }
    device = f"{facts.gpu.name}, {facts.settings.precision}, TensorRT {facts.tensorrt}" if facts else "CPU"
    pr_auc = f"{manifest.metrics['pr_auc']:.4f}" if "pr_auc" in manifest.metrics else "-"
    made = (facts.created if facts else manifest.created).replace("T", " ").rstrip("Z")[:16]
    name = f"{manifest.name} {manifest.version}"
    mark = marks.get(version.id, "")
    return mark, version.id, name, made, device, pr_auc, _gate(version.verdict), _signed(repository, version.id)


def _gate(verdict: Verdict | None) -> str | Text:
    if verdict is None:
        return "-"
    return "passed" if verdict.passed else Text("failed", "red")


def _signed(repository: Repository, version: str) -> str | Text:
    if not repository.sealed(version):
        return "-"
    try:
        seal = repository.seal(version)
    except ModelError:
        return Text("not trusted", "red")
    try:
        repository.vouched(version)
    except ModelError:
        return Text("changed", "red")
    return f"forced: {seal.forced}" if seal.forced else "yes"


def _keygen(options: argparse.Namespace) -> None:
    there = (options.keys / SIGNING_FILE).exists()
    key = generate(options.keys)
    if there:
        print(f"Key {key.id} was there; {options.keys / TRUSTED_FILE} holds its public half again.")
        return
    print(
        f"Key {key.id}: {options.keys / SIGNING_FILE} signs (keep it where versions are judged, and nowhere else); "
        f"{options.keys / TRUSTED_FILE} goes to every machine that serves."
    )


def _sign(options: argparse.Namespace) -> None:
    repository = Repository(options.repository, options.keys / TRUSTED_FILE)
    version = name_version(repository, options.version)
    repository.sign(version, read_signing_key(options.keys / SIGNING_FILE), force=options.force)
    print(f"Version {version} is signed: copy {repository.folder(version)} to where it is to serve.")


def _promote(options: argparse.Namespace) -> None:
    repository = Repository(options.repository, options.keys / TRUSTED_FILE)
    version = name_version(repository, options.version)
    pointer = repository.promote(version, _key(options.keys), reason=options.reason, force=options.force)
    kept = f"; {pointer.previous} is kept to go back to" if pointer.previous else ""
    print(f"Version {pointer.serving} serves{kept}.")


def _rollback(options: argparse.Namespace) -> None:
    pointer = Repository(options.repository, options.keys / TRUSTED_FILE).rollback(options.reason)
    print(f"Version {pointer.serving} serves again; {pointer.previous} is kept.")


def _gc(options: argparse.Namespace) -> None:
    gone = Repository(options.repository).collect(keep=options.keep, remove=not options.dry_run)
    what = "would go" if options.dry_run else "gone"
    for version in gone:
        print(f"{what}: {version.id} ({version.manifest.name} {version.manifest.version})")
    print(f"{len(gone)} version{'s' * (len(gone) != 1)} {what}.")


def name_version(repository: Repository, name: str) -> str:
    """Return the id of a version that is named; a folder from elsewhere is copied in."""
    path = Path(name)
    inside = path.parent.resolve() == repository.root.resolve()
    return repository.add(path) if path.is_dir() and not inside else repository.find(name)


def _key(folder: Path) -> SigningKey | None:
    path = folder / SIGNING_FILE
    return read_signing_key(path) if path.exists() else None
