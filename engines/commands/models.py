"""The commands about models: `train` and `show`."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from engines.commands.tables import add, show
from engines.folder import is_engine
from engines.gate.verdict import read_verdict
from engines.manifest import Manifest, read_manifest
from engines.model import ModelError
from engines.tensorrt.plan import read_facts


def add_commands(commands: Any) -> None:
    """Add them to the parser's commands."""
    train = commands.add_parser(
        "train",
        help="train a model on a labelled set and write its folder",
        description="Trains on the earliest rows of a set, stops by the next, calibrates on both, and judges the model "
        "on the last. Writes model.onnx, manifest.json and MODEL_CARD.md. Needs the extra `tipstream[train]`.",
    )
    train.set_defaults(run=_train)
    train.add_argument("shards", type=Path, metavar="SHARDS", help="folder that holds dataset.json and shard-*.parquet")
    train.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="model folder to write")
    train.add_argument("--recipe", type=Path, metavar="FILE", help="TOML file with choices other than the default ones")
    train.add_argument("--name", default="tip-intent", help="name in the manifest and in every score (%(default)s)")
    train.add_argument("--version", default="1", help="version in the manifest and in every score (%(default)s)")
    show = commands.add_parser(
        "show", help="show one model or engine", description="Prints what its manifest says, and the gate."
    )
    show.set_defaults(run=_show)
    show.add_argument("folder", type=Path, metavar="FOLDER", help="folder that holds manifest.json")


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


def _show(options: argparse.Namespace) -> None:
    manifest = read_manifest(options.folder)
    table = Table(show_header=False)
    add(table, "model", f"{manifest.name} {manifest.version}, created {manifest.created}")
    add(table, "trained on", manifest.trained_on)
    add(table, "features", f"{manifest.n_features}, catalogue {manifest.features}")
    add(table, "history", f"{manifest.history[0]} events x {manifest.history[1]} channels")
    add(table, "horizons", ", ".join(f"{seconds} s" for seconds in manifest.horizons_s))
    add(table, "tiers", ", ".join(f"{tier.name} from {tier.at_least:.4g}" for tier in manifest.tiers))
    add(table, "onnx", manifest.sha256)
    if is_engine(options.folder):
        facts = read_facts(options.folder)
        settings = facts.settings
        add(table, "engine", f"{settings.precision} for {facts.gpu}, TensorRT {facts.tensorrt}, {facts.created}")
        add(table, "buckets", ", ".join(map(str, settings.buckets)))
    verdict = read_verdict(options.folder)
    add(table, "gate", "not judged" if verdict is None else _verdict(verdict.passed, verdict.judged))
    show(table)
    _print_figures(manifest)


def _verdict(passed: bool, judged: str) -> str:
    return f"{'passed' if passed else 'did not pass'} on {judged}"


def _print_figures(manifest: Manifest) -> None:
    table = Table("held-out figure", "value")
    for name, value in manifest.metrics.items():
        add(table, name.replace("_", " "), f"{value:.5f}")
    show(table)
