"""The figures of a benchmark as one HTML page: a bar for each, with its range, and its floor below it."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment

from bench.figures import Figures

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>alert-pipeline: benchmark</title>
<style>
  :root { color-scheme: light dark; --ours: #2563eb; --floor: #94a3b8; --muted: #64748b; }
  body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
  section { display: grid; grid-template-columns: 1fr; gap: .15rem; margin: 0 0 1.1rem; }
  h1 { font-size: 1.3rem; } h2 { font-size: 1rem; margin: 0; font-weight: 600; }
  p { margin: 0; color: var(--muted); } p b { color: CanvasText; }
  svg { width: 100%; height: 2.1rem; display: block; }
  .ours { fill: var(--ours); } .floor { fill: var(--floor); } .range { stroke: CanvasText; stroke-width: 1.5; }
</style>
<h1>alert-pipeline: benchmark</h1>
<p>{{ at }}, {{ cores }} cores, load {{ load }}. The bar is the median, the line its range; the grey bar is the floor:
the same work without us, measured in the same run. Compare only figures of one run.</p>
<br>
{% for row in rows %}
<section>
  <h2>{{ row.what }}</h2>
  <p><b>{{ row.median }}</b> ({{ row.range }}, n = {{ row.n }})
  {%- if row.ratio %}, <b>{{ row.ratio }} ×</b> the floor of {{ row.floor }}{% endif %}
  {%- if row.target %}; target {{ row.target }}{% endif %}</p>
  <svg role="img" aria-label="{{ row.what }}: {{ row.median }}" viewBox="0 0 1000 40" preserveAspectRatio="none">
    <rect class="ours" x="0" y="2" width="{{ row.bar }}" height="16" rx="2"/>
    <line class="range" x1="{{ row.low }}" y1="10" x2="{{ row.high }}" y2="10" vector-effect="non-scaling-stroke"/>
    {% if row.ratio %}<rect class="floor" x="0" y="22" width="{{ row.floor_bar }}" height="16" rx="2"/>{% endif %}
  </svg>
</section>
{% endfor %}
</html>
"""


def write_report(rows: Sequence[Figures], file: Path) -> None:
    """Write the page of these figures to a file.

    Raises:
        OSError: it cannot be written.
    """
    page = Environment(autoescape=True).from_string(_PAGE)
    file.write_text(
        page.render(
            rows=[_drawn(row) for row in rows],
            at=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            cores=os.cpu_count(),
            load=" ".join(f"{value:.2f}" for value in os.getloadavg()),
        )
    )


def _drawn(row: Figures) -> dict[str, object]:
    """A row as the page shows it; its widths are of 1000."""
    floor = statistics.median(row.floor) if row.floor else 0.0
    widest = max(*row.values, row.median, floor) or 1.0
    return {
        "what": row.what.strip(),
        "median": f"{row.median:,.4g} {row.unit}",
        "range": f"{min(row.values):,.4g} to {max(row.values):,.4g}",
        "n": len(row.values),
        "target": row.target,
        "ratio": "" if row.ratio is None else f"{row.ratio:.2f}",
        "floor": f"{floor:,.4g} {row.unit}",
        "bar": round(1000 * row.median / widest, 1),
        "low": round(1000 * min(row.values) / widest, 1),
        "high": round(1000 * max(row.values) / widest, 1),
        "floor_bar": round(1000 * floor / widest, 1),
    }
