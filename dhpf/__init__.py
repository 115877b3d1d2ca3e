"""The one name of all rooms: `dhpf.model` is the folder `model` of a clone, or of the installed package."""

# Little is imported: until `dhpf.commands` has its say Ctrl-C ends a command in a traceback.
import os
import sys
from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

if not os.path.isdir(os.path.join(__path__[0], "model")):  # noqa: PTH112, PTH118 (a clone without links, on Windows)
    __path__.append(os.path.dirname(__path__[0]))  # noqa: PTH120
PLACES = {
    "Matcher": "dhpf.matching.matcher",
    "evaluate": "dhpf.evaluation.external_predictions",
    "open_benchmark": "dhpf.data",
}

if "torch" not in sys.modules:  # which reads this when it is imported
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")


def __getattr__(name: str) -> "Any":
    """`dhpf.Matcher`, `evaluate` and `open_benchmark`, imported when asked for: they need torch, the options do not."""
    if name in PLACES:
        return getattr(import_module(PLACES[name]), name)
    if name == "__version__":
        from dhpf.common import __version__

        return __version__
    raise AttributeError(f"module 'dhpf' has no attribute '{name}'")
