"""`tipstream-engine`: train models, look at them, build engines from them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import rich
from rich.table import Table

from engines.manifest import MANIFEST_FILE, Artifact, Manifest, read, read_manifest
from engines.model import BUCKETS, ModelError

_EPILOG = """examples:
  tipstream-engine train var/dataset --out var/models/mine     train on a set that `tipstream-replay dataset` made
  tipstream-engine list var/models                             models below a folder, newest first
  tipstream-engine show var/models/mine                        one model: figures, tiers, what it was trained on
  tipstream-engine build var/models/mine --precision fp16      a TensorRT engine for this machine's GPU
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 if it went well, 2 with a sentence if not."""
    options = _parser().parse_args(arguments)
    try:
        {"train": _train, "list": _list, "show": _show, "build": _build}[options.command](options)
    except ModelError as error:
        print(f"tipstream-engine {options.command}: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tipstream-engine",
        description="Models of tipping intent: train them, list them, look at them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    train = commands.add_parser(
        "train",
        help="train a model on a labelled set and write its folder",
        description="Trains on the earliest rows of a set, stops by the next, calibrates on both, and judges the model "
        "on the last. Writes model.onnx, manifest.json and MODEL_CARD.md. Needs the extra `tipstream[train]`.",
    )
    train.add_argument("shards", type=Path, metavar="SHARDS", help="folder that holds dataset.json and shard-*.parquet")
    train.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="model folder to write")
    train.add_argument("--recipe", type=Path, metavar="FILE", help="TOML file with choices other than the default ones")
    train.add_argument("--name", default="tip-intent", help="name in the manifest and in every score (%(default)s)")
    train.add_argument("--version", default="1", help="version in the manifest and in every score (%(default)s)")
    listing = commands.add_parser("list", help="list the models below a folder", description="Newest first.")
    listing.add_argument("folder", type=Path, metavar="FOLDER")
    show = commands.add_parser("show", help="show one model", description="Prints what a model's manifest says.")
    show.add_argument("folder", type=Path, metavar="FOLDER", help="folder that holds manifest.json")
    build = commands.add_parser(
        "build",
        help="build a TensorRT engine for this machine's GPU",
        description="Builds in a process of its own, and not at all if an engine of the same model, TensorRT, GPU and "
        "settings is there. Needs an NVIDIA GPU and the extra `tipstream[gpu]`.",
    )
    build.add_argument("folder", type=Path, metavar="MODEL", help="model folder, as `train` wrote it")
    build.add_argument("--precision", choices=("fp32", "fp16", "int8"), default="fp32", help="default: %(default)s")
    build.add_argument("--buckets", type=_ascending, default=BUCKETS, metavar="N,N", help="batch sizes, ascending")
    build.add_argument("--lengths", type=_ascending, default=(), metavar="N,N", help="history lengths, e.g. 16,32")
    build.add_argument("--wide", action="store_true", help="one profile for all sizes, for comparison")
    build.add_argument("--level", type=int, choices=range(6), default=5, help="optimisation level (%(default)s)")
    build.add_argument("--cache", type=Path, default=Path("var/engines"), help="where engines lie (%(default)s)")
    build.add_argument("--timeout", type=float, default=900.0, metavar="S", help="seconds it may take (%(default)g)")
    build.add_argument("--traffic", type=Path, metavar="SHARDS", help="labelled set to calibrate INT8 on")
    return parser


def _ascending(text: str) -> tuple[int, ...]:
    numbers = tuple(int(part) for part in text.split(","))
    if list(numbers) != sorted(set(numbers)) or numbers[0] < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be whole numbers above 0, ascending, with commas between")
    return numbers


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
    ranges = _ranges(artifact, options.traffic) if options.precision == "int8" else None
    with rich.get_console().status("") as status:
        folder = build(
            artifact,
            settings,
            options.cache,
            ranges=ranges,
            timeout_s=options.timeout,
            progress=lambda step, seconds: status.update(f"{step} ({seconds:.0f} s)"),
        )
    facts = read_facts(folder)
    print(
        f"{folder}: {facts.settings.precision} for {facts.gpu}, TensorRT {facts.tensorrt}, built in {facts.build_s} s"
    )


def _ranges(artifact: Artifact, traffic: Path | None) -> dict[str, float]:
    """Bounds of the values that INT8 quantises, from recorded rows."""
    from engines.tensorrt.calibrate import ranges

    if traffic is None:
        raise ModelError(
            "INT8 must be calibrated: name a labelled set with --traffic, as `tipstream-replay dataset` makes it."
        )
    return ranges(artifact, traffic)


def _train(options: argparse.Namespace) -> None:
    try:
        from engines.train import recipe, run  # PyTorch is needed by this command alone
    except ModuleNotFoundError as error:
        raise ModelError(
            f"Training needs {error.name}, which is not installed. Install it with: pip install 'tipstream[train]'"
        ) from error
    label = run.Label(options.name, options.version, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
    choices = recipe.read(options.recipe) if options.recipe else recipe.Recipe()
    manifest = run.train(options.shards, options.out, label, choices, print)
    _print_figures(manifest)
    print(f"Wrote {options.out}: the model card there says what it is good for.")


def _list(options: argparse.Namespace) -> None:
    manifests = [read_manifest(path.parent) for path in options.folder.rglob(MANIFEST_FILE)]
    if not manifests:
        raise ModelError(f"There is no model below {options.folder}. `tipstream-engine train` writes one.")
    table = Table("model", "version", "created", "features", "PR-AUC", "onnx")
    for manifest in sorted(manifests, key=lambda manifest: manifest.created, reverse=True):
        pr_auc = f"{manifest.metrics['pr_auc']:.4f}" if "pr_auc" in manifest.metrics else "-"
        table.add_row(manifest.name, manifest.version, manifest.created, manifest.features, pr_auc, manifest.sha256[:8])
    rich.print(table)


def _show(options: argparse.Namespace) -> None:
    manifest = read_manifest(options.folder)
    table = Table(show_header=False)
    table.add_row("model", f"{manifest.name} {manifest.version}, created {manifest.created}")
    table.add_row("trained on", manifest.trained_on)
    table.add_row("features", f"{manifest.n_features}, catalogue {manifest.features}")
    table.add_row("history", f"{manifest.history[0]} events x {manifest.history[1]} channels")
    table.add_row("horizons", ", ".join(f"{seconds} s" for seconds in manifest.horizons_s))
    table.add_row("tiers", ", ".join(f"{tier.name} from {tier.at_least:.4g}" for tier in manifest.tiers))
    table.add_row("onnx", manifest.sha256)
    rich.print(table)
    _print_figures(manifest)


def _print_figures(manifest: Manifest) -> None:
    table = Table("held-out figure", "value")
    for name, value in manifest.metrics.items():
        table.add_row(name.replace("_", " "), f"{value:.5f}")
    rich.print(table)
