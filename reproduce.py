"""Measure the tables of the paper; see `python reproduce.py --help` and docs/tables.md."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves it out
    from dhpf.commands import reproduce

    reproduce()
