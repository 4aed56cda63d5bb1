"""`tipstream-engine`: train models and look at them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import rich
from rich.table import Table

from engines.manifest import MANIFEST_FILE, Manifest, read_manifest
from engines.model import ModelError

_EPILOG = """examples:
  tipstream-engine train var/dataset --out var/models/mine     train on a set that `tipstream-replay dataset` made
  tipstream-engine list var/models                             models below a folder, newest first
  tipstream-engine show var/models/mine                        one model: figures, tiers, what it was trained on
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 if it went well, 2 with a sentence if not."""
    options = _parser().parse_args(arguments)
    try:
        {"train": _train, "list": _list, "show": _show}[options.command](options)
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
        description="Trains on the earliest rows of a set, stops and calibrates by the next, and judges the model on "
        "the last. Writes model.onnx, manifest.json and MODEL_CARD.md. Needs the extra `tipstream[train]`.",
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
    return parser


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
