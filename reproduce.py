"""Measure what a table of the paper shows, beside the published values; see docs/tables.md."""

from dhpf.programs.reproduce import main

if __name__ == "__main__":
    main()
