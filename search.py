"""Search for the hyperpixel layers that match best; see `python search.py --help` and docs/search.md."""

from dhpf.commands import search

if __name__ == "__main__":
    search()
