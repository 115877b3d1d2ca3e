"""From predicted key-points to figures, and a matcher that predicts them. What measures knows no network.

To add a metric: a function (see `evaluation.metrics`), entered below; a benchmark names the one that it is measured by.
"""

from typing import TYPE_CHECKING

from dhpf.common.registry import Registry

if TYPE_CHECKING:
    from dhpf.evaluation.metrics import Metric

# What is measured beside PCK where it is asked for (`--measures`).
MEASURES = {
    "pck-dagger": "dhpf.evaluation.measures:pck_dagger",
    "geometry-aware": "dhpf.evaluation.measures:geometry_aware",
    "left-right": "dhpf.evaluation.measures:left_right",
    "azimuth": "dhpf.evaluation.measures:by_azimuth",
    "kap": "dhpf.evaluation.measures:kap",
}
NEEDS = {  # where not every table has it
    "geometry-aware": "all visible points of the target images (ImageAnnotation of SPair-71k, AP-10K)",
    "left-right": "all visible points of the target images (ImageAnnotation of SPair-71k, AP-10K)",
    "azimuth": "the azimuths of the images (ImageAnnotation of SPair-71k)",
    "kap": "all visible points of both images (ImageAnnotation of SPair-71k, AP-10K) and the match scores of a model "
    "that test.py runs with --measures kap at this alpha and threshold",
}
METRICS: "Registry[Metric]" = Registry(
    "metric",
    {"pck": "dhpf.evaluation.metrics:pck", "outlines": "dhpf.evaluation.metrics:outlines", **MEASURES},
)
