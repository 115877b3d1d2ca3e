"""Dynamic Hyperpixel Flow: `Matcher`, `evaluate`, `open_benchmark`, and packages such as `dhpf.model`.

In a clone the packages lie beside this folder, which has links to them.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if not os.path.isdir(os.path.join(__path__[0], "model")):  # noqa: PTH112, PTH118 (a clone without links, on Windows)
    __path__.append(os.path.dirname(__path__[0]))  # noqa: PTH120

from dhpf.common import __version__ as __version__

if TYPE_CHECKING:
    from dhpf.data import open_benchmark
    from dhpf.evaluation.external_predictions import evaluate
    from dhpf.matching.matcher import Matcher

__all__ = ["Matcher", "__version__", "evaluate", "open_benchmark"]
# Imported when they are asked for: they need torch, the options do not.
_MODULES = {
    "Matcher": "dhpf.matching.matcher",
    "evaluate": "dhpf.evaluation.external_predictions",
    "open_benchmark": "dhpf.data",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'dhpf' has no attribute '{name}'")


def __dir__() -> list[str]:
    packages = (
        "common",
        "data",
        "model",
        "weights",
        "evaluation",
        "matching",
        "report",
        "training",
        "programs",
    )
    return sorted([*__all__, *packages, "commands"])
