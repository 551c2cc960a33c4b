"""Draw noted results as a PNG: how fast no-ops are drained, a panel for each broker.

    python -m benchmarks.harness.plot docs/reference/benchmarks.json docs/concepts/performance.png

The only module that needs matplotlib; the harness runs it in an environment of its own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

__all__ = ["REQUIREMENTS", "draw", "panels"]

REQUIREMENTS = ("matplotlib==3.11.2",)

#: What the panels are called, in their order.
TITLES = {"redis": "Redis", "rabbitmq": "RabbitMQ", "sqlite": "SQLite", "memory": "memory"}

OWN_COLOUR = "#2b6cb0"
PEER_COLOUR = "#a0aec0"
LIMIT_COLOUR = "#f6ad55"


def panels(told: dict[str, Any]) -> dict[str, list[tuple[str, float, float, float, str]]]:
    """Return for each broker its bars, from the slowest to the fastest: label, median, least, most, colour."""
    found: dict[str, list[tuple[str, float, float, float, str]]] = {}
    for result in told["results"]:
        if result["workload"] == "drain" and "rate" in result["figures"]:
            variant = told["variants"][result["key"]]
            colour = OWN_COLOUR if variant["system"] == "qbridge" else PEER_COLOUR
            label = f"{result['key']} {variant['version']}"
            found.setdefault(variant["broker"], []).append((label, *result["figures"]["rate"], colour))
    for result in told["limit_results"]:
        limit = told["limits"][result["key"]]
        if limit["broker"] in found and limit["beside"] == "drain" and result["figures"]:
            found[limit["broker"]].append((result["key"], *result["figures"]["rate"], LIMIT_COLOUR))
    return {title: sorted(found[broker], key=lambda bar: bar[1]) for broker, title in TITLES.items() if broker in found}


def draw(told: dict[str, Any], path: Path) -> None:
    """Write the picture."""
    import matplotlib as mpl  # type: ignore[import-not-found]  # is in an environment of its own

    mpl.use("agg")
    from matplotlib import pyplot

    shown = panels(told)
    heights = [len(bars) + 1 for bars in shown.values()]
    figure, axes = pyplot.subplots(
        len(shown), 1, figsize=(9, 0.3 * sum(heights) + 1), gridspec_kw={"height_ratios": heights}, squeeze=False
    )
    for axis, (title, bars) in zip(axes[:, 0], shown.items(), strict=True):
        labels, medians, least, most, colours = zip(*bars, strict=True)
        spread = [
            [middle - low for middle, low in zip(medians, least, strict=True)],
            [high - middle for middle, high in zip(medians, most, strict=True)],
        ]
        axis.barh(labels, medians, xerr=spread, color=colours, height=0.7, error_kw={"elinewidth": 0.8})
        for row, (middle, high) in enumerate(zip(medians, most, strict=True)):
            axis.text(max(middle, high), row, f"  {middle:,.0f}", va="center", fontsize=8)
        axis.set_title(title, loc="left", fontsize=10)
        axis.set_xlim(0, max(most) * 1.12)
        axis.tick_params(labelsize=8)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    axes[-1, 0].set_xlabel("no-op tasks per second, one worker process: median, least and most", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text("utf-8")), Path(sys.argv[2]))
