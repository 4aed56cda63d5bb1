"""The builder: a process of its own, `python -m engines.tensorrt.builder`, started by `engines.tensorrt.build`.

Reads one `Request` (MessagePack) from standard input; writes JSON lines to standard output: `{"step": ...}` as it goes
on, then `{"built": folder}` or `{"error": sentence}`. Killed at any time, it leaves no engine half-written.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import tensorrt as trt

from engines import files
from engines.child import leash
from engines.manifest import MANIFEST_FILE, ONNX_FILE, read_manifest
from engines.model import ModelError
from engines.tensorrt import precision, versions
from engines.tensorrt.cuda import driver, open_device
from engines.tensorrt.log import LOG
from engines.tensorrt.plan import FACTS_FILE, KNOWN_FILE, PLAN_FILE, Facts, Gpu, Request, Settings, key, read_engine
from engines.tensorrt.probe import probe

_KEY_LENGTH: Final = 16
Report = Callable[[str], None]


def build(request: Request, report: Report) -> Path:
    """Return the folder of the engine that the request asks for, building it unless it is there; raises ModelError."""
    versions.check()
    gpu = open_device()
    onnx = rewritten(request)
    name = key(onnx, request.manifest, versions.VERSION, gpu, request.settings)
    cache = Path(request.cache)
    folder = cache / name[:_KEY_LENGTH]
    cache.mkdir(parents=True, exist_ok=True)
    with files.locked(cache / f".{folder.name}.lock"):  # a second builder waits, and then finds the engine
        if (folder / FACTS_FILE).exists():
            return folder
        for stale in cache.glob(f".{folder.name}.new-*"):  # what a killed builder left
            shutil.rmtree(stale)
        began = time.monotonic()
        plan = _plan(onnx, request, gpu, cache, report)
        facts = Facts(
            key=name,
            plan_sha256=hashlib.sha256(plan).hexdigest(),
            onnx_sha256=hashlib.sha256(onnx).hexdigest(),
            tensorrt=versions.VERSION,
            gpu=gpu,
            settings=request.settings,
            driver=driver(),
            created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            build_s=round(time.monotonic() - began, 3),
            plan_bytes=len(plan),
        )
        report("writing the engine")
        _write(folder, plan, facts, request, lambda new: _test(new, report))
    return folder


def rewritten(request: Request) -> bytes:
    """Return the ONNX bytes that TensorRT is given for the request."""
    settings = request.settings
    onnx = request.onnx
    found = precision.opset(onnx)
    if versions.MAX_OPSET is not None and found > versions.MAX_OPSET:
        raise ModelError(
            f"The model uses ONNX opset {found}, but TensorRT {versions.VERSION} reads up to {versions.MAX_OPSET}. "
            f"Export it with opset {versions.MAX_OPSET}, or install TensorRT 10 or newer."
        )
    if len(settings.lengths) > 1:
        onnx = precision.any_length(onnx)
    if settings.precision == "fp16" and versions.STRONG_TYPES:
        onnx = precision.half(onnx)
    if settings.precision == "int8":
        onnx = precision.quantised(onnx, request.ranges)
    return onnx


def _plan(onnx: bytes, request: Request, gpu: Gpu, cache: Path, report: Report) -> bytes:
    settings = request.settings
    report(f"reading the model for {gpu}")
    try:
        builder = trt.Builder(LOG)
    except TypeError as error:  # what the bindings raise when they got no builder
        raise ModelError(
            f"TensorRT {versions.VERSION} gave no builder on {gpu}: {LOG.reason()}. Install the builder's libraries of "
            "exactly this version, or build on another machine with the same GPU."
        ) from error
    network = versions.create_network(builder)
    parser = trt.OnnxParser(network, LOG)
    if not parser.parse(onnx):
        raise _unreadable(parser)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_mib << 20)
    config.builder_optimization_level = settings.level
    config.avg_timing_iterations = settings.timing_iterations
    config.max_aux_streams = 0  # one stream: no events between streams, the simplest graph
    # Kernels of TensorRT's own alone. From 10 on there are no others; on 8.6 it spares cuBLAS and cuDNN.
    own = (trt.TacticSource.EDGE_MASK_CONVOLUTIONS, trt.TacticSource.JIT_CONVOLUTIONS)
    config.set_tactic_sources(sum(1 << int(source) for source in own))
    if not settings.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    versions.allow(config, network, settings.precision, precision.fp32_nodes(onnx))
    _add_profiles(builder, config, network, settings)
    timing = cache / f".timing-{versions.VERSION}-{hashlib.sha256(msgspec.json.encode(gpu)).hexdigest()[:8]}"
    kept = _start_timing_cache(config, timing)
    monitor = versions.watch(config, report)
    report("comparing kernels")
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ModelError(
            f"TensorRT {versions.VERSION} could not build the model in {settings.precision} for {gpu}: {LOG.reason()}. "
            "Try --precision fp32 and fewer --buckets, and see that no other process fills the GPU's memory."
        )
    _merge_timing_cache(config, timing)
    del monitor, kept
    return bytes(memoryview(plan))


def _add_profiles(
    builder: trt.Builder, config: trt.IBuilderConfig, network: trt.INetworkDefinition, settings: Settings
) -> None:
    """One profile for each length and bucket, lengths outside; or one for all where `wide` was asked for."""
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    own = next(int(port.shape[1]) for port in inputs if port.name == "history")
    lengths = settings.lengths or (own,)
    if settings.wide:
        versions.share_profile(config)
        low, high = (settings.buckets[0], lengths[0]), (settings.buckets[-1], lengths[-1])
        middle = (settings.buckets[len(settings.buckets) // 2], lengths[-1])
        ranges = [(low, middle, high)]
    else:
        ranges = [((size, length),) * 3 for length in lengths for size in settings.buckets]
    for shapes in ranges:
        profile = builder.create_optimization_profile()
        for port in inputs:
            tail = tuple(port.shape)[2:] if port.name == "history" else tuple(port.shape)[1:]
            full = [(size, length, *tail) if port.name == "history" else (size, *tail) for size, length in shapes]
            profile.set_shape(port.name, *full)
        if config.add_optimization_profile(profile) < 0:
            raise ModelError(f"TensorRT {versions.VERSION} refused the profile {shapes}: {LOG.reason()}.")


def _unreadable(parser: trt.OnnxParser) -> ModelError:
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    reason = "; ".join(f"node {error.node()}: {error.desc()}" for error in errors) or LOG.reason()
    return ModelError(
        f"TensorRT {versions.VERSION} cannot read this model ({reason}). Express the operator by others that ONNX "
        "opset 17 has, install a newer TensorRT, or serve the model on the CPU."
    )


def _start_timing_cache(config: trt.IBuilderConfig, path: Path) -> object:
    known = path.read_bytes() if path.exists() else b""
    cache = config.create_timing_cache(known)
    if known and not config.set_timing_cache(cache, ignore_mismatch=False):
        path.unlink()  # of another TensorRT or GPU: of no use
        cache = config.create_timing_cache(b"")
        known = b""
    if not known:
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _merge_timing_cache(config: trt.IBuilderConfig, path: Path) -> None:
    """Keep what this build learnt beside what others learnt meanwhile."""
    learnt = config.get_timing_cache()
    with files.locked(path.with_name(f"{path.name}.lock")):
        if path.exists():
            learnt.combine(config.create_timing_cache(path.read_bytes()), ignore_mismatch=False)
        files.replace(path, bytes(memoryview(learnt.serialize())))


def _test(folder: Path, report: Report) -> None:
    """Load what was written as the service will, in a process that may die of it; raises ModelError."""
    report("loading and testing the engine")
    probe(read_engine(folder, features=read_manifest(folder).features))


def _write(folder: Path, plan: bytes, facts: Facts, request: Request, test: Callable[[Path], None]) -> None:
    """Write a folder beside the wanted one, test it, and rename it: it is there whole and sound, or not at all."""
    new = folder.with_name(f".{folder.name}.new-{request.token}")
    try:
        new.mkdir()
        files.write(new / PLAN_FILE, plan)
        files.write(new / ONNX_FILE, request.onnx)
        files.write(new / MANIFEST_FILE, request.manifest)
        files.write(new / KNOWN_FILE, request.known)
        files.write(new / FACTS_FILE, msgspec.json.format(msgspec.json.encode(facts)) + b"\n")
        files.sync(new)
        test(new)
        new.rename(folder)
        files.sync(folder.parent)
    except OSError as error:
        raise ModelError(files.why(folder.parent, error)) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def main() -> int:
    """Answer the request on standard input; 0 if the engine is there."""
    leash()
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")

    def say(**line: Any) -> None:
        print(msgspec.json.encode(line).decode(), flush=True)

    try:
        request = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Request)
        folder = build(request, lambda step: say(step=step))
    except ModelError as error:
        say(error=str(error))
        return 2
    except OSError as error:
        say(error=files.why(Path(request.cache), error))
        return 2
    say(built=str(folder))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
