"""From predicted key-points to figures, and a matcher that predicts them. What measures knows no network.

To add a metric: a function (see `evaluation.metrics`), entered below; a benchmark names the one that it is measured by.
"""

from typing import TYPE_CHECKING

from dhpf.common.registry import Registry

if TYPE_CHECKING:
    from dhpf.evaluation.metrics import Metric

METRICS: "Registry[Metric]" = Registry(
    "metric", {"pck": "dhpf.evaluation.metrics:pck", "outlines": "dhpf.evaluation.metrics:outlines"}
)
