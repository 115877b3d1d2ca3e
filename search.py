"""Search for the hyperpixel layers that match best; see `python search.py --help` and docs/search.md."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves it out
    from dhpf.commands import search

    search()
