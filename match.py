"""Match points of your own images; see `python match.py --help` and docs/own-images.md."""

from dhpf.commands import match

if __name__ == "__main__":
    match()
