"""Measure DHPF on a benchmark; see `python test.py --help` and the README."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves it out
    from dhpf.commands import test

    test()
