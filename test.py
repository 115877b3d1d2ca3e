"""Measure DHPF on a benchmark; see `python test.py --help` and the README."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it silently until the program answers for itself

from dhpf.programs.test import main  # noqa: E402

if __name__ == "__main__":
    main()
