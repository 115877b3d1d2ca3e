"""Match points of your own images; see `python match.py --help` and docs/own-images.md."""

from dhpf.programs.match import main

if __name__ == "__main__":
    main()
