"""The ground that all rooms stand on: errors, files, options, processes, weights, run folders."""

__version__ = "2.0.0"
