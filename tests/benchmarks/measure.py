"""What a process costs and what it says about itself."""

from __future__ import annotations

import platform
import re
import subprocess
import urllib.request
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

import psutil
from prometheus_client.parser import text_string_to_metric_families

from scorer.embedded.redis import binary

PACKAGES: Final = ("aiokafka", "msgspec", "numba", "numpy", "onnxruntime", "orjson", "redis", "uvloop")

Samples = Mapping[str, float]  # `name{labels}` -> value, as /metrics lists them


def cpu_seconds(pid: int) -> float:
    """CPU time that a process and its children have used, user and system; ticks of 10 ms."""
    process = psutil.Process(pid)
    return float(sum(sum(p.cpu_times()[:2]) for p in [process, *process.children(recursive=True)]))


def machine_seconds() -> float:
    """CPU time that everything on this machine has used, time stolen by its host included."""
    times = psutil.cpu_times()
    return float(sum(getattr(times, kind, 0.0) for kind in ("user", "nice", "system", "irq", "softirq", "steal")))


def scrape(url: str) -> dict[str, float]:
    """Read a metrics page; empty when nobody listens there."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            text = answer.read().decode()
    except OSError:
        return {}
    samples: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for name, labels, value, *_ in family.samples:
            labelled = ",".join(f"{label}={labels[label]}" for label in sorted(labels) if label != "worker")
            name = f"{name}{{{labelled}}}"
            samples[name] = samples.get(name, 0.0) + value
    return samples


def change(before: Samples, after: Samples) -> dict[str, float]:
    """Give what was added between two scrapes."""
    return {name: value - before.get(name, 0.0) for name, value in after.items()}


def total(samples: Samples, prefix: str) -> float:
    """Sum of the samples whose name, labels included, starts so."""
    return sum(value for name, value in samples.items() if name.startswith(prefix))


def quantile(samples: Samples, histogram: str, q: float) -> float | None:
    """Give a histogram's quantile, straight between bucket bounds; None when it is empty or not there."""
    pattern = re.compile(re.escape(histogram) + r"_bucket\{le=([^,}]+)\}")
    buckets = sorted((float(m[1]), value) for name, value in samples.items() if (m := pattern.fullmatch(name)))
    if not buckets or not buckets[-1][1]:
        return None
    wanted, lower, below = q * buckets[-1][1], 0.0, 0.0
    for bound, count in buckets:
        if count >= wanted:
            return lower if bound == float("inf") else lower + (bound - lower) * (wanted - below) / (count - below)
        lower, below = bound, count
    return lower


def host() -> dict[str, str]:
    """CPU model and versions; nothing that names the machine."""
    cpu = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpu.read_text()) if cpu.exists() else None
    return {
        "cpu": model[1].strip() if model else platform.processor(),
        "cores": str(psutil.cpu_count()),
        "python": platform.python_version(),
        "java": first_line(["java", "-version"]),
        "redis-server": first_line([binary() or "redis-server", "--version"]).partition(" sha=")[0],
        **{name: version(name) for name in PACKAGES},
    }


def first_line(command: Sequence[str]) -> str:
    """Run a program that says what it is; the first line of it."""
    done = subprocess.run(command, capture_output=True, text=True)
    return (done.stdout + done.stderr).partition("\n")[0].strip()
