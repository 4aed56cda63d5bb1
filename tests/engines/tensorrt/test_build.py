"""Building, from the side of whoever asks for it: one engine, whole, or a sentence that says what to do."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import onnx
import pytest

from engines.folder import ENGINE_FILES
from engines.manifest import Artifact
from engines.model import ModelError
from engines.tensorrt.build import build
from engines.tensorrt.plan import Settings, read_engine
from tests.engines import small_models
from tests.engines.tensorrt import bindings
from tests.engines.tensorrt.fake_builder import PLAN, Script
from tests.services.missing import require

SETTINGS = Settings(buckets=(1, 8))


@pytest.fixture(autouse=True)
def _bindings() -> None:
    require(bindings.missing())


def command(script: Script) -> tuple[str, ...]:
    return (sys.executable, "-m", "tests.engines.tensorrt.fake_builder", msgspec.json.encode(script).decode())


def run(
    cache: Path,
    script: Script | None = None,
    *,
    model: Artifact | None = None,
    timeout_s: float = 40.0,
    progress: Callable[[str, float], None] = lambda step, seconds: None,
) -> Path:
    return build(
        model or small_models.artifact(),
        SETTINGS,
        cache,
        timeout_s=timeout_s,
        progress=progress,
        builder=command(script or Script()),
    )


def left(cache: Path) -> set[str]:
    """What lies in the repository but locks and measured timings."""
    return {path.name for path in cache.iterdir() if not path.name.endswith(".lock") and "timing" not in path.name}


def test_an_engine_is_built_once_tested_and_whole(tmp_path: Path) -> None:
    script = Script(log=str(tmp_path / "log"))
    steps: list[str] = []
    folder = run(tmp_path / "engines", script, progress=lambda step, seconds: steps.append(step))
    assert run(tmp_path / "engines", script) == folder
    assert len((tmp_path / "log").read_text().splitlines()) == 1
    assert {path.name for path in folder.iterdir()} == set(ENGINE_FILES)
    engine = read_engine(folder, features=small_models.FINGERPRINT)
    assert engine.plan == PLAN
    assert engine.artifact.onnx == small_models.artifact().onnx
    assert engine.facts.settings == SETTINGS
    assert engine.facts.key.startswith(folder.name)
    assert left(tmp_path / "engines") == {folder.name}
    order = ["starting the builder", "comparing kernels", "loading and testing the engine"]
    assert [step for step in dict.fromkeys(steps) if step in order] == [step for step in order if step in steps]


def test_two_builders_at_once_build_one_engine(tmp_path: Path) -> None:
    script = Script(log=str(tmp_path / "log"), seconds=0.5)
    folders: list[Path] = []
    threads = [threading.Thread(target=lambda: folders.append(run(tmp_path / "engines", script))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(folders) == 2
    assert folders[0] == folders[1]
    assert len((tmp_path / "log").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    "script", [Script(dies=True), Script(probe="takes the builder with it")], ids=["early", "late"]
)
def test_a_builder_that_is_killed_leaves_nothing_half_written(tmp_path: Path, script: Script) -> None:
    with pytest.raises(ModelError, match=r"builder was killed by signal 9 \(SIGKILL\) .* Nothing was written"):
        run(tmp_path, script)
    assert left(tmp_path) == set()
    folder = run(tmp_path)
    assert left(tmp_path) == {folder.name}


_ASKER = """
import sys
from pathlib import Path
from tests.engines.tensorrt.fake_builder import Script
from tests.engines.tensorrt.test_build import run
run(Path(sys.argv[1]), Script(log=sys.argv[2], seconds=600))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="leashes are Linux's")
def test_a_builder_ends_with_a_service_that_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with subprocess.Popen([sys.executable, "-c", _ASKER, str(tmp_path / "engines"), str(log)]) as asker:
        while not (log.exists() and log.read_text().endswith("\n")):
            assert asker.poll() is None
        asker.send_signal(signal.SIGKILL)
    builder = int(log.read_text())
    gone, until = False, time.monotonic() + 20
    while not gone:
        assert time.monotonic() < until
        try:
            os.kill(builder, 0)
            gone = Path(f"/proc/{builder}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except (ProcessLookupError, FileNotFoundError):
            gone = True
    assert run(tmp_path / "engines").exists()  # its lock went with it


def test_a_builder_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"did not finish within 3 s and was stopped; nothing was written"):
        run(tmp_path, Script(seconds=60), timeout_s=3.0)
    assert left(tmp_path) == set()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (Script(gpu=False), "There is no NVIDIA GPU that can be used here .* serve the model on the CPU"),
        (Script(no_builder=True), r"TensorRT 11\.4\.0\.106 gave no builder on Fake GPU .* Install the builder's lib"),
        (Script(unreadable=True), "cannot read this model .*node 3: No importer registered for op: Frobnicate.* opset"),
        (Script(plan=False), "could not build the model in fp32 for Fake GPU .*Try --precision fp32 and fewer"),
        (Script(full_disk=True), r"The disk is full: .* MiB left. Free some space \(`tipstream-engine gc`\)"),
        (Script(largest_file=20), r"cannot be written to \(File too large\)\. Name a writable folder"),
        (Script(version="8.5.3"), r"TensorRT 8\.5\.3 is too old: install 8\.6 or newer"),
        (Script(probe="refuses"), "It is off the stored probabilities"),
        (Script(probe="dies"), r"may not serve: the process that loaded it was killed by signal 11 \(SIGSEGV\)"),
    ],
    ids=lambda value: "" if isinstance(value, Script) else re.sub(r"\W+", "-", value)[:30],
)
def test_what_cannot_be_built_is_said_in_one_sentence_and_leaves_nothing(
    tmp_path: Path, script: Script, words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        run(tmp_path, script)
    assert left(tmp_path) == set() if tmp_path.exists() else True


def newer_opset() -> Artifact:
    proto = onnx.load_from_string(small_models.artifact().onnx)
    proto.opset_import[0].version = 18
    content = bytes(proto.SerializeToString())
    return Artifact(small_models.manifest(content), content)


def test_an_opset_that_this_tensorrt_does_not_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"uses ONNX opset 18, but TensorRT 8\.6\.1 reads up to 17. Export it with"):
        run(tmp_path, Script(version="8.6.1"), model=newer_opset())
    assert run(tmp_path, model=newer_opset()).exists()  # TensorRT 11


def test_a_repository_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="Name a writable folder with --repository"):
        run(tmp_path / "file" / "engines")


def test_what_the_libraries_print_is_no_answer(tmp_path: Path) -> None:
    noise = "import sys; print('[TRT] hello'); print('{\"step\": 3}'); sys.exit('it broke')"
    with pytest.raises(ModelError, match=r"builder ended with status 1 without an answer; its last words: it broke"):
        build(small_models.artifact(), SETTINGS, tmp_path, builder=(sys.executable, "-c", noise))
