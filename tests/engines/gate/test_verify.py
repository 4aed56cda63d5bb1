"""The gate as a whole, one CPU model beside another; the tests marked `gpu` put real engines through it."""

from __future__ import annotations

import html
from pathlib import Path

import msgspec
import numpy as np
import pytest

from engines.folder import contents
from engines.gate import report
from engines.gate.energy import Plan
from engines.gate.limits import Limits
from engines.gate.traffic import Traffic
from engines.gate.verdict import Energy, read_verdict, write_verdict
from engines.gate.verify import Options, verify
from engines.model import ModelError
from engines.tensorrt.build import build
from engines.tensorrt.plan import Settings
from tests.engines import small_engines, small_models
from tests.engines.gate import made
from tests.engines.gate.test_energy import SPENT

# What another process does to a call's time is not what is tested here.
PATIENT = Options(Limits(p99_us=1e9, p99_us_gpu=1e9, slower=1e9), runs=5)


@pytest.fixture(scope="module")
def traffic() -> Traffic:
    return Traffic(made.sample(), "drawn rows")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small_models.write(tmp_path / "model", small_models.artifact())


def test_a_model_for_the_cpu_passes_and_is_told_of(folder: Path, traffic: Traffic) -> None:
    steps: list[str] = []
    verdict = verify(folder, traffic, options=PATIENT, progress=steps.append)
    assert verdict.passed
    assert verdict.files == contents(folder)
    assert (verdict.subject, verdict.against) == ("small 1 on the CPU (ONNX Runtime)", "")
    assert (verdict.accuracy.rows, verdict.accuracy.serving) == (3_000, None)
    assert [speed.name for speed in verdict.speeds] == ["this version"]
    assert "comparing with the FP32 reference" in steps
    assert verdict.energy_note == "not asked for"
    write_verdict(folder, verdict)
    assert read_verdict(folder) == verdict


def test_another_model_is_held_against_the_one_that_serves(folder: Path, traffic: Traffic, tmp_path: Path) -> None:
    model = small_models.artifact(value_scale=3.0)
    serving = small_models.write(tmp_path / "serving", model)
    verdict = verify(folder, traffic, against=serving, options=PATIENT)
    assert verdict.against == "serving: small 1 on the CPU (ONNX Runtime)"
    assert verdict.accuracy.serving is not None
    assert [speed.name for speed in verdict.speeds] == ["this version", "serving"]
    assert "p99 over the serving version's" in " ".join(check.name for check in verdict.checks)


def test_the_same_model_is_timed_against_itself_but_not_ranked(folder: Path, traffic: Traffic, tmp_path: Path) -> None:
    serving = small_models.write(tmp_path / "serving", small_models.artifact())
    verdict = verify(folder, traffic, against=serving, options=PATIENT)
    assert verdict.accuracy.serving is None
    assert len(verdict.speeds) == 2
    assert verify(folder, traffic, against=folder, options=PATIENT).against == ""


def test_a_serving_version_of_other_features_is_not_compared(folder: Path, traffic: Traffic, tmp_path: Path) -> None:
    model = small_models.artifact()
    other = model._replace(manifest=msgspec.structs.replace(model.manifest, features="ffff"))
    verdict = verify(folder, traffic, against=small_models.write(tmp_path / "old", other), options=PATIENT)
    assert verdict.against == "old, which takes other features: not compared"
    assert len(verdict.speeds) == 1


def test_a_serving_version_that_does_not_run_here_is_not_compared(
    folder: Path, traffic: Traffic, tmp_path: Path
) -> None:
    serving = small_engines.write(tmp_path / "engines")
    verdict = verify(folder, traffic, against=serving, options=PATIENT)
    assert verdict.against.startswith(f"{serving.name}, which does not run here: not compared (")
    assert len(verdict.speeds) == 1
    assert verdict.passed


def test_a_serving_version_that_is_gone_is_not_compared(folder: Path, traffic: Traffic, tmp_path: Path) -> None:
    verdict = verify(folder, traffic, against=tmp_path / "gone", options=PATIENT)
    assert verdict.against.startswith("gone, which does not run here: not compared (")
    assert verdict.passed


def test_the_verdict_is_by_the_limits_that_were_given(folder: Path, traffic: Traffic) -> None:
    verdict = verify(folder, traffic, options=Options(Limits(p99_us=0.001), runs=5))
    assert verdict.failed == ("p99 of a call up to 256 rows, us",)
    assert not verdict.passed


def test_energy_is_measured_or_its_absence_explained(folder: Path, traffic: Traffic) -> None:
    verdict = verify(folder, traffic, options=PATIENT._replace(energy=Plan(windows=1, seconds=0.05)))
    if verdict.energy is None:
        assert "counter" in verdict.energy_note
    else:
        assert verdict.energy.joules_per_1000 > 0


def test_an_engine_that_does_not_load_is_no_verdict(traffic: Traffic, tmp_path: Path) -> None:
    try:
        import tensorrt  # noqa: F401

        words = "deserialis|built by TensorRT|built on|refused the plan"
    except ImportError:
        words = "TensorRT engines need"
    with pytest.raises(ModelError, match=words):
        verify(small_engines.write(tmp_path), traffic, options=PATIENT)


@pytest.mark.parametrize("energy", [None, SPENT])
def test_the_report_tells_it_all(folder: Path, traffic: Traffic, tmp_path: Path, energy: Energy | None) -> None:
    serving = small_models.write(tmp_path / "serving", small_models.artifact(value_scale=2.0))
    verdict = verify(folder, traffic, against=serving, options=PATIENT)
    verdict = msgspec.structs.replace(verdict, energy=energy)
    text, page = report.markdown(verdict), report.page(verdict)
    for told in (text, page):
        plain = html.unescape(told).replace("\\|", "|")
        assert [check.name for check in verdict.checks if check.name not in plain] == []
        assert "drawn rows" in told
        assert ("0.3 J for 1,000 scores" in told) == (energy is not None)
    assert text.startswith("# Passed: small 1")
    assert all(line.count(" | ") >= 3 for line in text.splitlines() if line.startswith("| "))
    assert page.count("<svg") == 4
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "nan" not in page.lower().replace(" nan", "").replace("of nan", "")


def test_a_failed_check_is_told_loudly(folder: Path) -> None:
    verdict = small_engines.verdict(folder, passed=False)
    assert report.markdown(verdict).startswith("# Not passed: ")
    assert "| the other | 2 | at most 1 | FAILED |" in report.markdown(verdict)


def test_a_damaged_verdict_is_named(folder: Path) -> None:
    assert read_verdict(folder) is None
    for content in (b"{}", b'{"subject": "\xff"}'):
        (folder / "verdict.json").write_bytes(content)
        with pytest.raises(ModelError, match="Run `tipstream-engine verify` again"):
            read_verdict(folder)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_real_engines_go_through_the_gate(traffic: Traffic, tmp_path: Path, precision: str) -> None:
    pytest.importorskip("engines.tensorrt.runner", reason="needs an NVIDIA GPU and TensorRT")
    model = small_models.artifact()
    exact = build(model, Settings(buckets=(1, 8, 64)), tmp_path)
    folder = build(model, Settings(buckets=(1, 8, 64), precision=precision), tmp_path)  # type: ignore[arg-type]
    options = PATIENT._replace(energy=Plan(windows=2, seconds=1.0))
    verdict = verify(folder, traffic, against=exact, exact=exact, options=options)
    failed = set(verdict.failed)
    assert failed <= {"time over the FP32 engine's"}  # so small a model gains nothing from FP16
    assert verdict.moves.slot == 0
    assert verdict.energy is None or 0 < verdict.energy.joules_per_1000 < 1e3
    assert np.isfinite(verdict.accuracy.candidate.pr_auc)
