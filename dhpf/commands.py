"""The commands by name, of a clone and installed: `from dhpf.commands import train` gives the program train's main.

From here on Ctrl-C ends a command silently, also during its imports, until the program answers for itself.
"""

import signal
from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # as background jobs of shells have it
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def __getattr__(name: str) -> "Any":
    if name.startswith("_"):
        raise AttributeError(name)
    return import_module(f"dhpf.programs.{name}").main
