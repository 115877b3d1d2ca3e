"""Match points of your own images; see `python match.py --help` and docs/own-images.md."""

from dhpf.programs.match import main
from dhpf.programs.options import program

if __name__ == "__main__":
    program(main)
