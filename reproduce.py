"""Measure what a table of the paper shows, beside the published values; see docs/tables.md."""

from dhpf.commands import reproduce

if __name__ == "__main__":
    reproduce()
