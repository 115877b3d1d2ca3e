"""The one name of all rooms: `dhpf.model` is the folder `model` of a clone, or of the installed package."""

from pathlib import Path
from typing import Any

__path__ = [str(Path(__file__).parent), str(Path(__file__).parents[1])]


def __getattr__(name: str) -> Any:
    """`dhpf.Matcher`, imported when it is asked for: it needs torch, the options do not."""
    if name == "Matcher":
        from dhpf.evaluation.matcher import Matcher

        return Matcher
    if name == "__version__":
        from dhpf.common import __version__

        return __version__
    raise AttributeError(f"module 'dhpf' has no attribute '{name}'")
