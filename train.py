"""Train DHPF; see `python train.py --help` and the README."""

from dhpf.commands import train

if __name__ == "__main__":
    train()
