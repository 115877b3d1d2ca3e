"""Measure DHPF on a benchmark; see `python test.py --help` and the README."""

from dhpf.commands import test

if __name__ == "__main__":
    test()
