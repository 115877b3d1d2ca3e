"""Where things are: the repository, and the folder beside it with data and reference values, if it is there."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
