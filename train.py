"""Train DHPF; see `python train.py --help` and the README."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves it out
    from dhpf.commands import train

    train()
