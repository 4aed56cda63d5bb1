"""Alert rules and dashboard ask for metrics that exist, in queries that a real Prometheus answers."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from scorer.health import Health
from scorer.instruments import Counter, Gauge, Histogram
from scorer.metrics import BatchStats, Metrics, merge
from scorer.ports import free_port
from scorer.supervisor import Supervisor
from scorer.web import WebServer
from tests.services.missing import require

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/tipstream.json").read_text())
ALERTS = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def needs(program: str) -> None:
    require(None if shutil.which(program) else f"no {program}: apt install prometheus")


def exported() -> set[str]:
    """Names of all series that a scorer and its supervisor export."""
    supervisor = Supervisor([], grace_s=1)
    instruments = [*Metrics().instruments(), *vars(supervisor).values()]
    names = {"up", "process_cpu_seconds_total", "process_resident_memory_bytes"}
    for instrument in instruments:
        if isinstance(instrument, Counter):
            names.add(f"{instrument.name}_total")
        elif isinstance(instrument, Gauge):
            names.add(instrument.name)
        elif isinstance(instrument, Histogram):
            names |= {f"{instrument.name}_{part}" for part in ("bucket", "sum", "count")}
    return names


@pytest.mark.parametrize("query", [*QUERIES, *(rule["expr"] for rule in RULES)])
def test_queries_ask_for_metrics_that_exist(query: str) -> None:
    asked = set(re.findall(r"\b(?:tipstream|process|up)(?:_\w+)?(?=[{\[)\s]|$)", re.sub(r'"[^"]*"', '""', query)))
    assert asked
    assert asked <= exported()


def test_outcomes_and_labels_are_those_that_exist() -> None:
    page = Metrics().render().decode()
    for query in [*QUERIES, *(rule["expr"] for rule in RULES)]:
        for names in re.findall(r'outcome=~?"([^"]+)"', query):
            for name in names.split("|"):
                assert f'outcome="{name}"' in page


def test_every_alert_says_what_it_means_and_what_to_do() -> None:
    tested = (Path(__file__).parent / "alerts.test.yml").read_text()
    for rule in RULES:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"].endswith(".")
        assert rule["annotations"]["description"].endswith(".")
        assert rule["alert"] in tested


def test_promtool_accepts_the_configuration_and_its_rules() -> None:
    needs("promtool")
    for arguments in (
        ["check", "config", str(DEPLOY / "prometheus/prometheus.yml")],
        ["test", "rules", str(Path(__file__).parent / "alerts.test.yml")],
    ):
        done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_finds_nothing_wrong_with_the_pages() -> None:
    needs("promtool")
    metrics = busy()
    for page in (metrics.render(), merge({"1": metrics.render().decode()}, [])):
        done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def busy() -> Metrics:
    metrics = Metrics()
    metrics.observe(
        BatchStats(
            consumed=4,
            scored=3,
            rejected={"schema": 1},
            bucket=8,
            cache_hits=1,
            wait=np.array([0.001] * 3),
            latency=np.array([0.01] * 3),
            stages={"decode": 0.001},
        )
    )
    metrics.lag.set(1, "0")
    metrics.partitions.set(1, "owned")
    metrics.stopped.set(1, "0", "out of range")
    metrics.model.set(1, "reference:1", "cpu:1", "f", "0.1.0")
    return metrics


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[str]:
    """Address of a real Prometheus that scrapes a page of ours with the shipped rules."""
    needs("prometheus")
    metrics, health = busy(), Health()
    with WebServer(health.pages(metrics), "127.0.0.1", 0) as server:
        settings = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
        settings["global"] = {"scrape_interval": "200ms", "evaluation_interval": "200ms"}
        settings["rule_files"] = [str(DEPLOY / "prometheus/alerts.yml")]
        settings["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{server.port}"]}]
        file = tmp_path / "prometheus.yml"
        file.write_text(yaml.safe_dump(settings))
        port = free_port()
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={file}",
                    f"--storage.tsdb.path={tmp_path / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=log,
                stderr=log,
            )
            try:
                yield f"http://127.0.0.1:{port}"
            finally:
                process.kill()
                process.wait()


def ask(address: str, query: str) -> list[Any]:
    url = f"{address}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        body = json.load(answer)
    assert body["status"] == "success"
    result: list[Any] = body["data"]["result"]
    return result


def test_a_real_prometheus_scrapes_us_and_answers_every_query(prometheus: str) -> None:
    deadline = time.monotonic() + 30
    while True:  # another process says when
        try:
            if ask(prometheus, "count_over_time(up[1m]) > 3"):
                break
        except OSError:
            pass
        assert time.monotonic() < deadline, "Prometheus did not scrape"
        time.sleep(0.05)
    assert ask(prometheus, "tipstream_records_consumed_total")[0]["value"][1] == "4"
    empty = {query for query in QUERIES if not ask(prometheus, query.replace("$__rate_interval", "1m"))}
    may_be = {query for query in QUERIES if re.search("worker_restarts|skipped|inferences|cache_rows", query)}
    assert empty <= may_be, "a panel would stay empty"
    firing = {sample["metric"]["alertname"] for sample in ask(prometheus, 'ALERTS{alertstate="firing"}')}
    assert firing == {"TipstreamPartitionStopped"}
