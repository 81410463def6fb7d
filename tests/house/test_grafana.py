"""The dashboard and the alert rules in docs/grafana show what the product exposes, by its names and with the plan's limits."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from app.domain.signals import SIGNALS
from app.logsink import LogSink
from app.metrics import Metrics

FOLDER = Path(__file__).resolve().parents[2] / "docs/grafana"
RULES = (FOLDER / "koraos-alerts.yml").read_text(encoding="utf-8")
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "koraos-console.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
CONDITIONS = [line.partition("expr: ")[2].strip("'") for line in RULES.splitlines() if "expr: " in line]


@pytest.fixture(scope="module")
def exposed() -> dict[str, set[str]]:
    """Every series' name with the labels that it may have."""
    metrics = Metrics()
    sink = LogSink(os.open(os.devnull, os.O_WRONLY))
    metrics.watch_sink(sink)
    names: dict[str, set[str]] = {}
    for family in metrics.registry.collect():
        labels = set(getattr(getattr(metrics.registry, "_names_to_collectors", {}).get(family.name), "_labelnames", ()))
        ends = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        for end in ends:
            names[family.name + end] = labels | ({"le"} if end == "_bucket" else set())
    sink.close()
    return names


@pytest.mark.parametrize("expression", [*QUERIES, *CONDITIONS])
def test_every_metric_in_a_query_exists_with_its_labels(expression: str, exposed: dict[str, set[str]]) -> None:
    found = re.findall(r"\b(kora_[a-z0-9_]+)(?:\{([^}]*)\})?", expression)
    assert found, expression
    for name, selector in found:
        assert name in exposed, name
        assert set(re.findall(r"(\w+)\s*=", selector)) <= exposed[name], expression
    for opening, closing in ("()", "{}", "[]"):
        assert expression.count(opening) == expression.count(closing), expression


def test_every_signal_is_on_the_dashboard_and_in_the_rules_with_its_limits() -> None:
    shown, ruled = " ".join(QUERIES), " ".join(CONDITIONS)
    for signal in SIGNALS.values():
        of = "all" if signal.is_global else "worst"
        assert f"kora_signal_{signal.name}{{" in shown, signal.name
        for threshold in (*signal.warning, *signal.critical):
            condition = (
                f'kora_signal_{signal.name}{{measure="{threshold.metric}", of="{of}"}}) {threshold.operator} {threshold.value:g}'
            )
            assert condition in ruled, condition


def test_every_rule_says_what_it_is_about_and_to_whom() -> None:
    rules = RULES.split("- alert: ")[1:]
    assert len(rules) >= 2 * len(SIGNALS)
    assert len({rule.split("\n")[0] for rule in rules}) == len(rules)
    for rule in rules:
        for part in ("expr: ", "for: ", "severity: ", "owner: ", "summary: ", "description: "):
            assert part in rule, rule


def test_panels_have_places_of_their_own() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        grid = panel["gridPos"]
        cells = {(x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])}
        assert not cells & taken, panel["title"]
        assert grid["x"] + grid["w"] <= 24
        taken |= cells
