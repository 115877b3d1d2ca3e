"""Match points of your own images; see `python match.py --help` and docs/own-images.md."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it silently until the program answers for itself

from dhpf.programs.match import main  # noqa: E402

if __name__ == "__main__":
    main()
