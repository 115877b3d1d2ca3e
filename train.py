"""Train DHPF; see `python train.py --help` and the README."""

from dhpf.programs.train import main

if __name__ == "__main__":
    main()
