"""What the report says beside the figures: how far off they may be by chance, and what they hide."""

from collections.abc import Mapping
from typing import Any

from dhpf.evaluation.intervals import written
from dhpf.report.page import Section


def intervals(figures: Mapping[str, Any]) -> Section:
    """The intervals of all totals."""
    rows = []
    for figure in (*figures["totals"], *figures.get("without_leaked", ())):
        kinds = (written(figure[kind], figure["unit"]) for kind in ("interval", "interval_by_image"))
        rows.append([figure["name"], *kinds, f"mean over {figure['average']}, {figure['basis']}"])
    header = ["Figure", "resampling pairs", "resampling images", "of"]
    return Section("How certain", header, rows, text=figures["intervals"])
