"""The ground that all rooms stand on: errors, files, downloads, options, processes, weights, run folders."""

__version__ = "2.0.0"
