"""Compare runs or predictions on the same pairs; see `python compare.py --help` and docs/comparing.md."""

from dhpf.commands import compare

if __name__ == "__main__":
    compare()
