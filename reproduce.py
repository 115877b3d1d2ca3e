"""Measure what a table of the paper shows, beside the published values; see docs/tables.md."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it silently until the program answers for itself

from dhpf.programs.reproduce import main  # noqa: E402

if __name__ == "__main__":
    main()
