"""Search for the hyperpixel layers that match best; see `python search.py --help` and docs/search.md."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it silently until the program answers for itself

from dhpf.programs.search import main  # noqa: E402

if __name__ == "__main__":
    main()
