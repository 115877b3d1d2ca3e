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
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from dhpf.common.program import prepare_process

prepare_process()  # as the programs do, before torch is imported

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dhpf.common.errors import UserError
from dhpf.common.processes import start_processes
from dhpf.data import BENCHMARKS, open_benchmark
from dhpf.data.loading import load
from dhpf.model import BACKBONES
from dhpf.model.correlation import correlate
from dhpf.model.dhpf import DHPF
from dhpf.model.grid import STRIDE
from dhpf.model.hough import hough_voting
from dhpf.programs.options import reduced_channels
from dhpf.training import SUPERVISIONS
from dhpf.training.supervision import gate_noise, to_device

SIDES = 240, 480, 720, 960  # of frames, in pixels, over which growth is measured
Modes = dict[str, tuple[Callable[[], object], int]]


def network(name: str) -> nn.Module:
    """The plain network, with weights that keep activations within range."""
    torch.manual_seed(0)
    cls = BACKBONES[name]
    net = cls.network(cls)
    for module_name, module in net.named_modules():
        if isinstance(module, nn.BatchNorm2d) and module_name.endswith("bn3"):
            nn.init.constant_(module.weight, 0.2)
    return net.eval().requires_grad_(False)


def batch_of(pairs: int, side: int, device: torch.device, shown: int = 0) -> dict[str, Any]:
    """Random pairs with ten key-points each, of alternating categories, shown at another side than the frame"""
    draw = torch.Generator().manual_seed(pairs)
    batch: dict[str, Any] = {
        f"{end}_img": torch.randn(pairs, 3, shown or side, shown or side, generator=draw)
        for end in ("src", "trg")
    }
    batch |= {f"{end}_kps": torch.rand(pairs, 2, 10, generator=draw) * (side - 1) for end in ("src", "trg")}
    batch |= {"frame": side, "n_pts": torch.full((pairs,), 10), "pckthres": torch.full((pairs,), float(side))}
    return to_device(batch | {"category_id": torch.arange(pairs) % 20}, device)


def modes(backbone: str, device: torch.device, frame: int, bf16: bool, **form: Any) -> Modes:
    """What is measured: a function, and the number of pairs that it handles.

    Args: form: input_size and reduced_channels of the backbone.
    """
    model = DHPF(BACKBONES[backbone](network(backbone).state_dict(), **form)).to(device)
    shown = model.backbone.input_size_for(frame)
    model.bf16 = bf16
    both = torch.randn(2, 3, shown, shown, device=device)
    # Made when first asked for: they are no part of the memory of a mode that does not use them.
    plain = cache(lambda: network(backbone).to(device))
    pairs = cache(lambda count: batch_of(count, frame, device, shown))
    codes = cache(lambda: (model.eval().encode(both[:1], frame), model.encode(both[1:], frame)))

    @torch.no_grad()
    def bare(memory_format: torch.memory_format) -> None:
        plain().to(memory_format=memory_format)(both.contiguous(memory_format=memory_format))

    @torch.no_grad()
    def evaluate(batch: dict[str, Any]) -> None:
        model.eval()(batch["src_img"], batch["trg_img"], frame=frame).transfer(batch["src_kps"])

    @torch.no_grad()
    def compare() -> None:
        model.eval().compare(*codes()).transfer(pairs(1)["src_kps"])

    def train(supervision: str, batch: dict[str, Any]) -> None:
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


def seconds(function: Callable[[], object]) -> float:
    """Time of a call."""
    begin = time.perf_counter()
    function()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def median(function: Callable[[], object], repeats: int) -> float:
    """Median time of a call, warmed up."""
    return statistics.median([seconds(function) for _ in range(repeats + 1)][1:])


def against_bare(measured: Modes, names: Iterable[str], repeats: int) -> dict[str, dict[str, float]]:
    """Time per pair of these modes, and its ratio to the faster bare backbone; the first two modes are that."""
    bare = min((call for call, _ in list(measured.values())[:2]), key=lambda call: median(call, 3))
    rows = {"bare backbone": {"ms per pair": median(bare, repeats) * 1e3, "ratio": 1.0}}
    for name in names:
        call, pairs = measured[name]
        seconds(call)
        # A machine that others use drifts: each run is compared with the bare backbone of the same moment.
        runs = [(seconds(bare), seconds(call) / pairs) for _ in range(repeats)]
        ratio = statistics.median(mode / before for before, mode in runs)
        rows[name] = {"ms per pair": statistics.median(mode for _, mode in runs) * 1e3, "ratio": ratio}
    return rows


def measure_alone(mode: str, side: int, options: argparse.Namespace) -> tuple[float, float]:
    """Seconds a pair and peak memory in GB of a mode in a process that does nothing else; see `only`."""
    shape = [f"--{name}={vars(options)[name]}" for name in ("backbone", "precision", "device")]
    shape += [
        f"--{name}={given}"
        for name in ("backbone-side", "width")
        if (given := vars(options)[name.replace("-", "_")])
    ]
    command = [sys.executable, __file__, *shape, f"--img-side={side}", "--only", mode]
    duration, memory = map(float, subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.split())
    return duration, memory


def only(mode: str, measured: Modes, device: torch.device) -> None:
    """Print what `alone` reads; the memory is the process's, or of the GPU's allocator."""
    call, pairs = measured[mode]
    duration = median(call, 1) / pairs
    # Not getrusage: what it reports of a child process begins at its parent's size.
    status = Path("/proc/self/status").read_text().split()
    memory = int(status[status.index("VmHWM:") + 1]) / 1e6
    print(duration, torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else memory)


def growth(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Time and memory of evaluation as sides and batches grow, beside dense N×N matrices of float32."""
    table = {}
    for side, batch in (*((side, 1) for side in SIDES), (240, 4), (240, 16)):
        duration, memory = measure_alone(f"evaluation, batch {batch}", side, options)
        dense = batch * (side // 4) ** 4 * 4 / 1e9
        cells = {"ms per pair": duration * 1e3, "peak GB": memory, "GB an N×N": dense}
        table[f"side {side}, batch {batch}"] = cells
    return table


def plot_growth(table: dict[str, dict[str, float]], path: Path) -> None:
    """Draw what `growth` measured over the sides, each beside what it would be if it grew as the number of scores."""
    import matplotlib.pyplot as plt  # the memory of a mode measured alone is without it
    from matplotlib.ticker import NullLocator

    rows = [table[f"side {side}, batch 1"] for side in SIDES]
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for ax, name, dense in zip(axes, ("ms per pair", "peak GB"), ("as N²", "one dense N×N"), strict=True):
        ax.plot(SIDES, [row[name] for row in rows], "o-", label="measured")
        scale = rows[0][name] / rows[0]["GB an N×N"] if name == "ms per pair" else 1
        ax.plot(SIDES, [row["GB an N×N"] * scale for row in rows], "--", color="gray", label=dense)
        ax.set(xscale="log", yscale="log", xlabel="side of the frame, pixels", ylabel=name)
        ax.set_xticks(SIDES, map(str, SIDES), minor=False)
        ax.xaxis.set_minor_locator(NullLocator())
        ax.legend()
    figure.savefig(path)


def stages(options: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """Milliseconds of the parts of evaluating one pair."""
    with torch.no_grad():
        model = DHPF(BACKBONES[options.backbone](network(options.backbone).state_dict())).eval().to(device)
        batch = batch_of(1, options.img_side, device)
        both = torch.cat([batch["src_img"], batch["trg_img"]])
        maps, grid = list(model._layer_maps(both, None)), options.img_side // STRIDE
        code = model._describe(maps, grid)
        src, trg = code[:1], code[1:]
        matches = model.compare(src, trg)
        parts = {
            "backbone": lambda: list(model._layer_maps(both, None)),
            "transformation and norms": lambda: model._describe(maps, grid),
            "gates": lambda: model.learner(src.pooled + trg.pooled),
            "native products": lambda: correlate(src, trg, matches.weights, model.layer_of_channel),
            "appearance, votes, column maxima": lambda: hough_voting(matches.scores.rows.correlation),
            "transfer": lambda: matches.transfer(batch["src_kps"]),
        }
        return {name: median(part, options.repeats) * 1e3 for name, part in parts.items()}


class Calls(TorchDispatchMode):
    """Counts the operators that compute, views not."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operator: Any, types: Any, arguments: Any = (), names: Any = None) -> Any:
        results = operator._schema.returns
        views = bool(results) and results[0].alias_info is not None and not results[0].alias_info.is_write
        self.count += not views and operator is not torch.ops.aten._unsafe_view.default
        return operator(*arguments, **(names or {}))


def calls(backbone: str, side: int) -> dict[str, int]:
    """Operators that a GPU is given for one pair. On the meta device, which computes nothing: reading a value fails."""
    model = DHPF(BACKBONES[backbone](network(backbone).state_dict())).eval().to("meta")
    with torch.device("meta"), torch.no_grad():
        both, points = torch.empty(2, 3, side, side), torch.empty(1, 2, 10)
        for _ in range(2):  # once to make what is made once
            with Calls() as encoding:
                code = model.encode(both)
            with Calls() as comparing:
                model.compare(code[:1], code[1:]).transfer(points)
    return {"encoding both images": encoding.count, "comparing and transferring": comparing.count}


def loader_speed(name: str, datapath: Path, workers: int) -> float:
    """Pairs per second that loading alone gives."""
    split = "trn" if name in ("synthetic", "pfpascal", "spair") else "test"
    data = open_benchmark(name, datapath, split, evaluation=False)
    count = min(len(data), 160)
    begin = time.perf_counter()
    for _ in load(data.__getitem__, [list(range(b, min(b + 8, count))) for b in range(0, count, 8)], workers):
        pass
    return count / (time.perf_counter() - begin)


def run(options: argparse.Namespace) -> None:
    """Measure what the options ask for, and print it. Raises: UserError."""
    if options.repeats < 1:
        raise UserError("--repeats: a mode is measured once or more often")
    _, device = start_processes(options.device)
    measured = modes(
        options.backbone,
        device,
        options.img_side,
        options.precision == "bf16",
        input_size=options.backbone_side,
        reduced_channels=options.width,
    )
    if options.only:
        only(options.only, measured, device)
        return
    names = options.modes or list(measured)[2:]
    if unknown := [name for name in names if name not in measured]:
        raise UserError(
            f"--modes: there is no mode {unknown[0]!r}; there are {', '.join(map(repr, measured))}"
        )

    rows = against_bare(measured, names, options.repeats)
    for name in () if options.no_memory else names:
        rows[name]["peak GB"] = measure_alone(name, options.img_side, options)[1]
    on_cpu = f"cpu, {torch.get_num_threads()} threads"
    about = {
        "backbone": options.backbone,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else on_cpu,
        "img_side": options.img_side,
        "precision": options.precision,
        "torch": torch.__version__,
    }
    tables: dict[str, dict[str, Any]] = {"modes": rows}
    if options.stages:
        tables["stages, ms"] = stages(options, device)
    if options.calls:
        tables["calls of operators a pair, as on a GPU"] = calls(options.backbone, options.img_side)
    if options.growth:
        tables["growth"] = growth(options)
    if options.growth and options.plot:
        plot_growth(tables["growth"], options.plot)
    if options.loader:
        speeds = {name: loader_speed(name, options.datapath, options.workers) for name in options.loader}
        tables["loading alone, pairs/s"] = speeds
    if options.json:
        print(json.dumps(about | tables))
        return
    print(*(f"{name}: {value}" for name, value in about.items()), sep="\n")
    for title, table in tables.items():
        print(f"\n{title}")
        for name, cell in table.items():
            numbers = cell.items() if isinstance(cell, dict) else [("", cell)]
            print(f"  {name:34}" + "".join(f"{number:10.2f} {unit}" for unit, number in numbers))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--backbone", default="resnet101", help="one of model.BACKBONES, timm:NAME too")
    add("--backbone-side", type=int, help="side of the pictures that the backbone is shown")
    add("--width", type=reduced_channels, help="channels after the transformation, as train.py's")
    add("--device", default="cpu")
    add("--img-side", type=int, default=240)
    add("--precision", choices=["fp32", "bf16"], default="fp32")
    add("--repeats", type=int, default=5, help="how often each mode is measured")
    add("--modes", nargs="+", metavar="MODE", help='these alone, by their names: "weak training, batch 4"')
    add("--stages", action="store_true", help="also the parts of evaluating one pair")
    add("--calls", action="store_true", help="also the number of operators that a GPU is given for a pair")
    add("--growth", action="store_true", help="also how evaluation grows with image and batch")
    add("--plot", type=Path, metavar="FILE", help="draw what --growth measures over the image's side")
    add("--loader", nargs="+", choices=list(BENCHMARKS), default=[], help="also the speed of loading alone")
    add("--datapath", type=Path, default=Path("../Datasets_DHPF"))
    add("--workers", type=int, default=2)
    add("--no-memory", action="store_true", help="leave out the peak memory")
    add("--json", action="store_true", help="one JSON object instead of a table")
    add("--only", help=argparse.SUPPRESS)  # run one mode and print this process's peak memory
    options = parser.parse_args()
    try:
        run(options)
    except UserError as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")


if __name__ == "__main__":
    main()
