"""Match points of your own images; see `python match.py --help` and docs/own-images.md."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves it out
    from dhpf.commands import match

    match()
