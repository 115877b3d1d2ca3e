"""Beam search over the layers that every pair uses (docs/search.md)."""

import hashlib
import json
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dhpf.common.errors import UserError
from dhpf.common.files import MIB, read_json, replace_file, sha256
from dhpf.common.processes import choose_device
from dhpf.common.run import Run, progress, versions
from dhpf.data.benchmark import Benchmark
from dhpf.matching.layer_subsets import Candidates, Shares, Subset, shares
from dhpf.matching.predict import encoded
from dhpf.model.ablation import Ablation
from dhpf.model.dhpf import DHPF
from dhpf.model.options import DEFAULT_BACKBONE, DEFAULT_VOTING
from dhpf.programs.search import SearchOptions
from dhpf.programs.testing import opened
from dhpf.weights.checkpoint import build_model, load_model
from dhpf.weights.released import resolve

STATE, RESULT = "search.json", "layers.json"  # of the run folder
OFTEN = 10.0  # seconds between saved states
LARGEST = 512 * MIB  # state


def candidates(found: Mapping[Subset, float], size: int, beam: int, layers: int) -> Candidates:
    """The subsets of `size` layers to measure: the best `beam` of one layer less, each with every other layer added."""
    parents = (
        best([subset for subset in found if len(subset) == size - 1], found)[:beam] if size > 1 else [()]
    )
    children: dict[Subset, tuple[Subset, int]] = {}
    for parent in parents:
        for layer in range(layers):
            if layer not in parent:
                children.setdefault(tuple(sorted((*parent, layer))), (parent, layer))
    return children


def best(subsets: Iterable[Subset], found: Mapping[Subset, float]) -> list[Subset]:
    """Subsets from the best to the worst; of equal ones the smaller first."""
    return sorted(subsets, key=lambda subset: (-found[subset], len(subset), subset))


class Memory:
    """What is known of subsets: for every pair of the search, in its order, the PCK in percent.

    A pair without PCK, since it has no key-points or cannot be read, has None and is in no mean. Saved, it goes on as
    if the search had not been stopped.
    """

    def __init__(self, material: Mapping[str, Any], pairs: int) -> None:
        self.material = dict(material)
        self.pairs = pairs
        self.values: dict[Subset, list[float | None]] = {}
        self.saved = time.monotonic()

    def done(self, subsets: Candidates) -> int:
        """How many pairs these subsets were measured on, all of them."""
        return min(len(self.values.get(subset, ())) for subset in subsets)

    def add(self, subsets: Candidates, pairs: list[int], measured: Shares) -> None:
        """Take in what the subsets got of the next pairs; those that could not be read are missing."""
        for number, subset in enumerate(subsets):
            values = [measured[pair][number] if pair in measured else math.nan for pair in pairs]
            self.values.setdefault(subset, []).extend(None if math.isnan(v) else v for v in values)

    def means(self, subsets: Iterable[Subset] | None = None) -> dict[Subset, float]:
        """PCK of subsets, of all that were measured whole if none are named.

        Raises: UserError: no pair has one.
        """
        whole = [subset for subset, values in self.values.items() if len(values) == self.pairs]
        means = {}
        for subset in whole if subsets is None else subsets:
            known = [value for value in self.values[subset] if value is not None]
            if not known and subsets is None:
                raise UserError("there is nothing to search by: no pair that could be read has key-points")
            means[subset] = float(np.mean(known)) if known else 0.0
        return means

    def save(self, run: Run) -> None:
        content = {"material": self.material, "files": run.sizes()}
        pck = {",".join(map(str, subset)): values for subset, values in self.values.items()}
        replace_file(run.folder / STATE, (json.dumps(content | {"pck": pck}) + "\n").encode())
        self.saved = time.monotonic()

    def restore(self, folder: Path) -> dict[str, int]:
        """Take over what `save` wrote; returns the sizes that the log's files had. Raises: UserError."""
        path = folder / STATE
        content = read_json(path, LARGEST)
        try:
            for name, value in self.material.items():
                if content["material"][name] != value:
                    raise UserError(f"--resume {folder}: the search began with other {name}")
            for text, values in content["pck"].items():
                subset = tuple(int(layer) for layer in text.split(","))
                self.values[subset] = [None if value is None else float(value) for value in values]
            return {str(name): int(size) for name, size in content["files"].items()}
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path}: not the state of a search ({error!r})") from error


def loaded(options: SearchOptions, checkpoint: Path | None) -> DHPF:
    """The model whose layers are searched, of raw features or of those of a learner. Raises: UserError."""
    form: dict[str, Any] = {"layers": options.backbone_layers, "side": options.backbone_side}
    voting, weights = options.voting, options.backbone_weights
    if checkpoint:
        model, _ = load_model(checkpoint, options.backbone, weights, voting, **form)
    else:
        model = build_model(options.backbone or DEFAULT_BACKBONE, weights, voting or DEFAULT_VOTING, **form)
    model.ablate(Ablation(raw=not checkpoint))
    return model.to(choose_device(options.device)).eval()


def search(options: SearchOptions, folder: Path) -> dict[str, Any]:
    """Search into a run folder, from where its state says; returns what its `layers.json` holds. Raises: UserError."""
    benchmark = opened(options)
    if benchmark.metric != "pck":
        raise UserError(f"--benchmark {benchmark.name}: it has no PCK to search by")
    drawn = torch.randperm(len(benchmark), generator=torch.Generator().manual_seed(options.seed))
    pairs = sorted(drawn[: options.pairs].tolist())
    checkpoint = resolve(options.load) if options.load else None
    model = loaded(options, checkpoint)
    net = model.backbone
    keys = [(benchmark.pairs[i].src_key, benchmark.pairs[i].trg_key) for i in pairs]
    material = {
        "pairs": hashlib.sha256(repr(keys).encode()).hexdigest(),
        "backbone weights": net.weights_hash,
        "learner": sha256(checkpoint) if checkpoint else "",
    }
    memory = Memory(material, len(pairs))
    kind = "learned" if checkpoint else "raw"
    if options.resume:
        run = Run(folder, options.quiet)
    else:
        given = asdict(options) | {"versions": versions()}
        run = Run.create(folder, given, numbered=not options.logpath, quiet=options.quiet)
    with run.ending():
        if options.resume:  # without a state it was killed before it began
            run.rewind(memory.restore(run.folder) if (run.folder / STATE).exists() else {})
        if not run.sizes():
            words = f"{net.name}, {kind} features, voting {model.voting}"
            chosen = f"{len(pairs)} of {len(benchmark)} pairs, drawn from seed {options.seed}"
            run.log("\n".join([words, *benchmark.notes, chosen]))
        about = {
            **net.metadata, "features": kind, "load": options.load, "voting": model.voting,
            "img_side": options.img_side, "benchmark": benchmark.name, "split": benchmark.split,
            "list": benchmark.list_path.name, "pairs": len(pairs), "seed": options.seed, "alpha": options.alpha,
            "thres": benchmark.thres, "beam": options.beam, "versions": versions(),
        }  # fmt: skip
        grow(options, run, model, benchmark, pairs, memory, about)
        result = result_of(memory.means(), about)
        path = run.folder / RESULT
        run.log(f"{result['subsets']} subsets; the best, {words_of(result['layers'])}: --layers @{path}")
    return result


def grow(
    options: SearchOptions,
    run: Run,
    model: DHPF,
    benchmark: Benchmark,
    pairs: list[int],
    memory: Memory,
    about: Mapping[str, Any],
) -> None:
    """Measure subsets of one layer, then of one more and one more; the best so far is always in `layers.json`."""
    layers = len(model.backbone.channels)
    most = min(options.max_layers, layers)
    bsz = 1 if model.device.type == "cpu" else options.bsz

    def todo(size: int) -> Candidates:
        return candidates(memory.means(), size, options.beam, layers)

    first = next((size for size in range(1, most + 1) if memory.done(todo(size)) < len(pairs)), None)
    left = [pairs[memory.done(todo(first)) :], *[pairs] * (most - first)] if first else []
    generations = [[some[b : b + bsz] for b in range(0, len(some), bsz)] for some in left]
    order = [batch for generation in generations for batch in generation]
    steps = encoded(model, benchmark, order, options.workers, options.cache_gb * 1e9, options.on_bad_pair)
    for size, batches in enumerate(generations, first or 1):
        begin, subsets = time.monotonic(), todo(size)
        what = f"{size} layers, {len(subsets)} subsets"
        with progress(what, sum(map(len, batches)), not options.quiet) as advance:
            for batch in batches:
                step = next(steps)
                found: Shares = {}
                for part in step.parts:
                    found |= shares(model, step.features, part, subsets, options.alpha)
                memory.add(subsets, batch, found)
                for message in step.unread:
                    run.log(f"not readable: {message}")
                advance(len(batch), best=max(memory.means(subsets).values()))
                if batch is not batches[-1] and time.monotonic() - memory.saved > OFTEN:
                    memory.save(run)
        means = memory.means()
        here, over = best(subsets, means)[0], best(means, means)[0]
        run.log(
            f"{what}: best {words_of(here)}, PCK@{options.alpha:g} {means[here]:.2f} %, "
            f"{time.monotonic() - begin:.0f} s; best so far {words_of(over)}, {means[over]:.2f} %"
        )
        content = json.dumps(result_of(means, about), indent=2) + "\n"
        replace_file(run.folder / RESULT, content.encode())
        memory.save(run)


def result_of(means: Mapping[Subset, float], about: Mapping[str, Any]) -> dict[str, Any]:
    """What `layers.json` holds: the best subset, what was searched, and the best of every size."""
    order = best(means, means)
    sizes = sorted({len(subset) for subset in means})
    firsts = [next(subset for subset in order if len(subset) == size) for size in sizes]
    return {
        "layers": order[0],
        "pck": means[order[0]],
        **about,
        "subsets": len(means),
        "best_by_size": [{"layers": subset, "pck": means[subset]} for subset in firsts],
    }


def words_of(subset: Subset) -> str:
    return ",".join(map(str, subset))
