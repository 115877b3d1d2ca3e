"""Measure DHPF on a benchmark; see `python test.py --help` and the README."""

from dhpf.programs.test import main

if __name__ == "__main__":
    main()
