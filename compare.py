"""Compare runs or predictions; see `python compare.py --help` and docs/comparing.md."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves it out
    from dhpf.commands import compare

    compare()
