"""What all other packages use: errors, files, downloads, processes, run folders."""

__version__ = "2.1.0"
