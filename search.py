"""Search for the hyperpixel layers that match best; see `python search.py --help` and docs/search.md."""

from dhpf.programs.search import main

if __name__ == "__main__":
    main()
