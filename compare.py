"""Compare runs or predictions on the same pairs; see `python compare.py --help` and docs/comparing.md."""

from dhpf.programs.compare import main

if __name__ == "__main__":
    main()
