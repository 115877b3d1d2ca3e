"""How long DHPF takes, in units of its bare backbone: python benchmarks/speed.py --backbone resnet101

The bare backbone is torchvision's (or timm's) own network over both images of a pair as one batch, in the faster
memory format. Each mode is measured in the same process, warmed up; its ratio is the median of several, each to a run
of the bare backbone just before. Peak memory is that of a process that runs one mode alone (on a GPU: of PyTorch's
allocator). Weights are drawn: no time depends on them.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import timm
import torch
import torchvision
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from dhpf.common.errors import UserError
from dhpf.common.processes import start
from dhpf.common.program import keep_freed_memory
from dhpf.data import BENCHMARKS, open_benchmark
from dhpf.data.loading import load
from dhpf.model import BACKBONES
from dhpf.model.correlation import correlate
from dhpf.model.dhpf import DHPF
from dhpf.model.hough import hough_matching
from dhpf.training import SUPERVISIONS
from dhpf.training.supervision import gate_noise, to_device

Modes = dict[str, tuple[Callable[[], object], int]]


def network(name: str) -> nn.Module:
    """The plain network, with weights that keep activations within range."""
    torch.manual_seed(0)
    net = (
        timm.create_model("tf_efficientnet_lite0") if "lite0" in name else getattr(torchvision.models, name)()
    )
    for module_name, module in net.named_modules():
        if isinstance(module, nn.BatchNorm2d) and module_name.endswith("bn3"):
            nn.init.constant_(module.weight, 0.2)
    return net.eval().requires_grad_(False)


def batch_of(pairs: int, side: int, device: torch.device) -> dict[str, Tensor]:
    """Random pairs with ten key-points each, of alternating categories."""
    draw = torch.Generator().manual_seed(pairs)
    batch = {f"{end}_img": torch.randn(pairs, 3, side, side, generator=draw) for end in ("src", "trg")}
    batch |= {f"{end}_kps": torch.rand(pairs, 2, 10, generator=draw) * (side - 1) for end in ("src", "trg")}
    batch |= {"n_pts": torch.full((pairs,), 10), "pckthres": torch.full((pairs,), float(side))}
    return to_device(batch | {"category_id": torch.arange(pairs) % 20}, device)


def modes(backbone: str, device: torch.device, side: int, bf16: bool) -> Modes:
    """What is measured: a function, and the number of pairs that it handles."""
    model = DHPF(BACKBONES[backbone](network(backbone).state_dict())).to(device)
    model.bf16 = bf16
    both = torch.randn(2, 3, side, side, device=device)
    # Made when first asked for: they are no part of the memory of a mode that does not use them.
    plain = cache(lambda: network(backbone).to(device))
    pairs = cache(lambda count: batch_of(count, side, device))
    codes = cache(lambda: (model.eval().encode(both[:1]), model.encode(both[1:])))

    @torch.no_grad()
    def bare(memory_format: torch.memory_format) -> None:
        plain().to(memory_format=memory_format)(both.contiguous(memory_format=memory_format))

    @torch.no_grad()
    def evaluate(batch: dict[str, Tensor]) -> None:
        model.eval()(batch["src_img"], batch["trg_img"]).transfer(batch["src_kps"])

    @torch.no_grad()
    def compare() -> None:
        model.eval().compare(*codes()).transfer(pairs(1)["src_kps"])

    def train(supervision: str, batch: dict[str, Tensor]) -> None:
        model.train()
        noise = gate_noise(len(model.backbone.channels), 2 * len(batch["src_img"]), 0).to(device)
        model.learner.zero_grad()
        SUPERVISIONS[supervision](model, batch, 0.1, 0.5, noise).loss.backward()

    return {
        "bare backbone": (lambda: bare(torch.channels_last), 1),
        "bare backbone, contiguous": (lambda: bare(torch.contiguous_format), 1),
        "evaluation, batch 1": (lambda: evaluate(pairs(1)), 1),
        "evaluation, batch 4": (lambda: evaluate(pairs(4)), 4),
        "evaluation, batch 16": (lambda: evaluate(pairs(16)), 16),
        "evaluation, codes kept": (compare, 1),
        "strong training, batch 8": (lambda: train("strong", pairs(8)), 8),
        "weak training, batch 4": (lambda: train("weak", pairs(4)), 4),
    }


def seconds(function: Callable[[], object], device: torch.device) -> float:
    """Time of a call."""
    begin = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def median(function: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median time of a call, warmed up."""
    return statistics.median([seconds(function, device) for _ in range(repeats + 1)][1:])


def against_bare(
    measured: Modes, names: Iterable[str], device: torch.device, repeats: int
) -> dict[str, dict[str, float]]:
    """Time per pair of these modes, and its ratio to the faster bare backbone; the first two modes are that."""
    bare = min((call for call, _ in list(measured.values())[:2]), key=lambda call: median(call, device, 3))
    rows = {"bare backbone": {"ms per pair": median(bare, device, repeats) * 1e3, "ratio": 1.0}}
    for name in names:
        call, pairs = measured[name]
        seconds(call, device)
        # A machine that others use drifts: each run is compared with the bare backbone of the same moment.
        runs = [(seconds(bare, device), seconds(call, device) / pairs) for _ in range(repeats)]
        ratio = statistics.median(mode / before for before, mode in runs)
        rows[name] = {"ms per pair": statistics.median(mode for _, mode in runs) * 1e3, "ratio": ratio}
    return rows


def alone(mode: str, side: int, options: argparse.Namespace) -> tuple[float, float]:
    """Seconds a pair and peak memory in GB of a mode in a process that does nothing else; see `only`."""
    shape = ["--backbone", options.backbone, "--img-side", str(side), "--precision", options.precision]
    command = [sys.executable, __file__, *shape, "--device", options.device, "--only", mode]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(printed[0]), float(printed[1])


def only(mode: str, measured: Modes, device: torch.device) -> None:
    """Print what `alone` reads; the memory is the process's, or of the GPU's allocator."""
    call, pairs = measured[mode]
    duration = median(call, device, 1) / pairs
    # Not getrusage: what it reports of a child process begins at its parent's size.
    status = Path("/proc/self/status").read_text().split()
    memory = int(status[status.index("VmHWM:") + 1]) / 1e6
    print(duration, torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else memory)


def growth(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Time and memory of evaluation as sides and batches grow, beside dense N×N matrices of float32."""
    table = {}
    for side, batch in ((240, 1), (480, 1), (720, 1), (240, 4), (240, 16)):
        duration, memory = alone(f"evaluation, batch {batch}", side, options)
        dense = batch * (side // 4) ** 4 * 4 / 1e9
        row = {"ms per pair": duration * 1e3, "peak GB": memory, "GB an N×N": dense}
        table[f"side {side}, batch {batch}"] = row
    return table


def stages(options: argparse.Namespace, device: torch.device, repeats: int) -> dict[str, float]:
    """Seconds of the parts of evaluating one pair."""
    with torch.no_grad():
        model = DHPF(BACKBONES[options.backbone](network(options.backbone).state_dict())).eval().to(device)
        batch = batch_of(1, options.img_side, device)
        both = torch.cat([batch["src_img"], batch["trg_img"]])
        maps = list(model._layers(both))
        code = model._describe(maps)
        src, trg = code[:1], code[1:]
        matches = model.compare(src, trg)
        parts = {
            "backbone": lambda: list(model._layers(both)),
            "transformation and norms": lambda: model._describe(maps),
            "gates": lambda: model.learner(tuple(s + t for s, t in zip(src.pooled, trg.pooled, strict=True))),
            "native products": lambda: correlate(src, trg, matches.weights, model.layer_of_channel),
            "appearance, votes, column maxima": lambda: hough_matching(matches.scores.rows.correlation),
            "transfer": lambda: matches.transfer(batch["src_kps"]),
        }
        return {name: median(part, device, repeats) for name, part in parts.items()}


def loader_speed(name: str, datapath: Path, workers: int) -> float:
    """Pairs per second that loading alone gives."""
    data = open_benchmark(name, datapath, "trn" if name in ("synthetic", "pfpascal", "spair") else "test")
    count = min(len(data), 160)
    begin = time.perf_counter()
    for _ in load(data.__getitem__, [list(range(b, min(b + 8, count))) for b in range(0, count, 8)], workers):
        pass
    return count / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", choices=list(BACKBONES), default="resnet101")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--img-side", type=int, default=240)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--repeats", type=int, default=5, help="how often each mode is measured")
    parser.add_argument(
        "--modes", nargs="+", metavar="MODE", help='these alone, by their names: "weak training, batch 4"'
    )
    parser.add_argument("--stages", action="store_true", help="also the parts of evaluating one pair")
    parser.add_argument(
        "--growth", action="store_true", help="also how evaluation grows with image and batch"
    )
    parser.add_argument(
        "--loader",
        nargs="+",
        choices=list(BENCHMARKS),
        metavar="BENCHMARK",
        default=[],
        help="also the speed of loading alone",
    )
    parser.add_argument("--datapath", type=Path, default=Path("../Datasets_DHPF"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--no-memory", action="store_true", help="leave out the peak memory")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--only", help=argparse.SUPPRESS)  # run one mode and print this process's peak memory
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error("--repeats: a mode is measured once or more often")
    keep_freed_memory()
    try:
        _, device = start(options.device)
    except UserError as error:
        parser.error(str(error))
    measured = modes(options.backbone, device, options.img_side, options.precision == "bf16")
    if options.only:
        only(options.only, measured, device)
        return
    names = options.modes or list(measured)[2:]
    if unknown := [name for name in names if name not in measured]:
        parser.error(f"--modes: there is no mode {unknown[0]!r}; there are {', '.join(map(repr, measured))}")

    rows = against_bare(measured, names, device, options.repeats)
    for name in () if options.no_memory else names:
        rows[name]["peak GB"] = alone(name, options.img_side, options)[1]
    report: dict[str, object] = {
        "backbone": options.backbone,
        "device": torch.cuda.get_device_name()
        if device.type == "cuda"
        else f"cpu, {torch.get_num_threads()} threads",
        "img_side": options.img_side,
        "precision": options.precision,
        "torch": torch.__version__,
        "modes": rows,
    }
    if options.stages:
        report["stages, ms"] = {k: v * 1e3 for k, v in stages(options, device, options.repeats).items()}
    if options.growth:
        report["growth"] = growth(options)
    if options.loader:
        report["loading alone, pairs/s"] = {
            name: loader_speed(name, options.datapath, options.workers) for name in options.loader
        }
    if options.json:
        print(json.dumps(report))
        return
    for key, value in report.items():
        if not isinstance(value, dict):
            print(f"{key}: {value}")
            continue
        print(f"\n{key}")
        for name, cell in value.items():
            numbers = cell.items() if isinstance(cell, dict) else [("", cell)]
            print(f"  {name:34}" + "".join(f"{number:10.2f} {unit}" for unit, number in numbers))


if __name__ == "__main__":
    main()
