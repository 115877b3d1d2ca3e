"""Compare runs or predictions on the same pairs; see `python compare.py --help` and docs/comparing.md."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it silently until the program answers for itself

from dhpf.programs.compare import main  # noqa: E402

if __name__ == "__main__":
    main()
