"""Every name of `tensorrt` and `cuda` in the package, held against the bindings of each version, without a GPU.

`names.json` holds public names by version and class, nothing else.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import engines.tensorrt
from tests.engines.tensorrt import bindings
from tests.services.missing import require

PACKAGE = Path(engines.tensorrt.__file__).parent
NAMES: dict[str, dict[str, list[str]]] = json.loads((Path(__file__).parent / "names.json").read_text())
VERSIONS = [version for version in NAMES if not version.startswith("cuda")]
CUDA = next(names for version, names in NAMES.items() if version.startswith("cuda"))
SOURCES = sorted(PACKAGE.glob("*.py"))
ROOT = PACKAGE.parents[1]


def chains(tree: ast.AST, root: str) -> Iterator[list[str]]:
    """Give every dotted name that begins with `root`, without it."""
    for node in ast.walk(tree):
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.insert(0, node.attr)
            node = node.value
        if parts and isinstance(node, ast.Name) and node.id == root:
            yield parts


def unknown(text: str, version: str) -> list[str]:
    """Names of `tensorrt` in a source text that a version lacks."""
    names, found = NAMES[version], []
    everything = {member for release in VERSIONS for members in NAMES[release].values() for member in members}
    present = {member for members in names.values() for member in members}
    tree = ast.parse(text)
    for parts in chains(tree, "trt"):
        if parts[0] == "__version__":
            continue
        if parts[0] not in names or (len(parts) > 1 and parts[1] not in ("__init__", *names[parts[0]])):
            found.append(".".join(parts[:2]))
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return found + sorted((attributes & everything) - present - {*dir(set), *dir(dict)})


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_every_tensorrt_name_is_in_every_version(source: Path, version: str) -> None:
    allowed = {"precision", "set_output_type", "progress_monitor"} if source.stem == "versions" else {"precision"}
    assert set(unknown(source.read_text(), version)) <= allowed


def test_a_name_that_some_version_lacks_is_found() -> None:
    assert unknown("import tensorrt as trt\ntrt.BuilderFlag.FP16", "11.4.0.106") == ["BuilderFlag.FP16", "FP16"]
    assert unknown("context.execute_async_v2(1)", "10.16.1.11") == ["execute_async_v2"]
    assert unknown("engine.create_execution_context_without_device_memory()", "11.4.0.106")


def test_names_looked_up_by_string_are_in_some_version() -> None:
    tree = ast.parse((PACKAGE / "versions.py").read_text())
    strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    looked_up = {word for word in strings if word.isupper() or word.startswith("IProgress")}
    known = {name for release in VERSIONS for owner in NAMES[release].items() for name in (owner[0], *owner[1])}
    assert looked_up >= {"FP16", "INT8", "EXPLICIT_BATCH", "STRONGLY_TYPED", "IProgressMonitor"}
    assert looked_up <= known


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_every_cuda_name_is_in_the_bindings(source: Path) -> None:
    for parts in chains(ast.parse(source.read_text()), "rt"):
        assert parts[0] in (*CUDA, *CUDA["runtime"]), parts
        if parts[0] in CUDA and len(parts) > 1:
            assert parts[1] in CUDA[parts[0]], parts


def test_the_package_fits_the_newest_bindings_types(tmp_path: Path) -> None:
    require(bindings.missing())
    bindings.write_stubs(tmp_path)
    assert types(tmp_path, *map(str, SOURCES)) == []


def test_a_name_that_is_gone_is_an_error_of_types(tmp_path: Path) -> None:
    require(bindings.missing())
    bindings.write_stubs(tmp_path)
    source = tmp_path / "sample.py"
    source.write_text("import tensorrt as trt\n\n\ndef f(c: trt.IBuilderConfig) -> None:\n    c.int8_calibrator = 1\n")
    assert len(types(tmp_path, str(source))) == 1


def types(stubs: Path, *sources: str) -> list[str]:
    """Return mypy's complaints about the sources with the stubs in place.

    The bindings turn tuples into Dims and take their own buffers, which stubs read off them do not say.
    """
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--cache-dir", str(stubs / "cache")]
    for code in ("arg-type", "var-annotated", "no-untyped-call"):
        command += ["--disable-error-code", code]
    done = subprocess.run(
        [*command, *sources], cwd=ROOT, env={"MYPYPATH": str(stubs)}, capture_output=True, text=True, timeout=200
    )
    assert not done.stderr
    return [line for line in done.stdout.splitlines() if ": error:" in line and "tensorrt.pyi" not in line]
