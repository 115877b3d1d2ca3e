"""Search for the hyperpixel layers that match best; see `python search.py --help` and docs/search.md."""

import hashlib
import json
import math
import time
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dhpf.common.errors import UserError
from dhpf.common.files import MIB, read_json, replace_file, sha256
from dhpf.common.processes import choose_device
from dhpf.common.run import LAYERS, SEARCH_STATE, Run, progress, versions
from dhpf.data import BENCHMARKS
from dhpf.data.benchmark import Benchmark
from dhpf.matching.layer_subsets import Candidates, Subset, SubsetPCK, subset_pck
from dhpf.matching.predict import LoadingConfig, encode_batches
from dhpf.model.ablation import Ablation
from dhpf.model.dhpf import DHPF
from dhpf.programs import run_program
from dhpf.programs.opening import create_run, open_benchmark, open_model
from dhpf.weights.config import ModelConfig, as_text

SAVE_INTERVAL_S = 10.0
MAX_STATE_BYTES = 512 * MIB


class SubsetScores:
    """What is known of subsets: for every pair of the search, in its order, the PCK in percent.

    A pair without PCK, since it has no key-points or cannot be read, has None and is in no mean. Saved, it goes on as
    if the search had not been stopped.
    """

    def __init__(self, fingerprint: Mapping[str, Any], pairs: int) -> None:
        self.fingerprint = dict(fingerprint)
        self.pairs = pairs
        self.values: dict[Subset, list[float | None]] = {}
        self.saved = time.monotonic()

    def done(self, subsets: Candidates) -> int:
        """How many pairs these subsets were measured on, all of them."""
        return min(len(self.values.get(subset, ())) for subset in subsets)

    def add(self, subsets: Candidates, pairs: list[int], measured: SubsetPCK) -> None:
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
        content = {"material": self.fingerprint, "files": run.sizes()}
        pck = {",".join(map(str, subset)): values for subset, values in self.values.items()}
        replace_file(run.folder / SEARCH_STATE, (json.dumps(content | {"pck": pck}) + "\n").encode())
        self.saved = time.monotonic()

    def restore(self, folder: Path) -> dict[str, int]:
        """Take over what `save` wrote; returns the sizes that the log's files had. Raises: UserError."""
        path = folder / SEARCH_STATE
        content = read_json(path, MAX_STATE_BYTES)
        try:
            for name, value in self.fingerprint.items():
                if content["material"][name] != value:
                    raise UserError(f"--resume {folder}: the search began with other {name}")
            for text, values in content["pck"].items():
                subset = tuple(int(layer) for layer in text.split(","))
                self.values[subset] = [None if value is None else float(value) for value in values]
            return {str(name): int(size) for name, size in content["files"].items()}
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path}: not the state of a search ({error!r})") from error


def main(arguments: Sequence[str] | None = None) -> None:
    run_program("search", arguments)


def run(options: Namespace) -> None:
    """Search into a run folder, from where its state says. Raises: UserError."""
    cls = BENCHMARKS[options.benchmark]
    if cls.metric != "pck":
        raise UserError(f"--benchmark {cls.name}: it has no PCK to search by")
    if options.split not in cls.splits:
        raise UserError(
            f"--split {options.split}: {cls.name} has no such pairs, only {', '.join(cls.splits)}: search on another "
            f"benchmark, or give --split {cls.splits[0]} and measure the layers that are found on other pairs"
        )
    benchmark = open_benchmark(options)
    drawn = torch.randperm(len(benchmark), generator=torch.Generator().manual_seed(options.seed)).tolist()
    pairs, held_out = sorted(drawn[: options.pairs]), sorted(drawn[options.pairs : 2 * options.pairs])
    opened = open_model(options)
    benchmark.prepare_for(opened.model.backbone)
    model, features = opened.model, "learned" if opened.checkpoint else "raw"
    model.ablate(Ablation(raw=not opened.checkpoint))
    model.to(choose_device(options.device)).eval()
    keys = [(benchmark.pairs[i].src_key, benchmark.pairs[i].trg_key) for i in pairs]
    fingerprint = {
        "pairs": hashlib.sha256(repr(keys).encode()).hexdigest(),
        "backbone weights": model.backbone.weights_hash,
        "learner": sha256(opened.checkpoint) if opened.checkpoint else "",
    }
    scores = SubsetScores(fingerprint, len(pairs))
    if options.resume:
        run = Run(options.resume, options.quiet)
    else:
        run = create_run(options, "search", options.benchmark, model.backbone.name)
    with run:
        if options.resume:  # without a state it was killed before it began
            run.rewind(scores.restore(run.folder) if (run.folder / SEARCH_STATE).exists() else {})
        if not run.sizes():
            title = f"{model.backbone.name}, {features} features, voting {model.voting}"
            chosen = f"{len(pairs)} of {len(benchmark)} pairs, drawn from seed {options.seed}"
            run.log("\n".join([title, *opened.notes, *benchmark.notes, chosen]))
        metadata = {
            **ModelConfig.of_model(model).to_metadata(), "features": features, "load": options.load,
            "img_side": options.img_side, "benchmark": benchmark.name, "split": benchmark.split,
            "list": benchmark.list_path.name, "pairs": len(pairs), "seed": options.seed, "alpha": options.alpha,
            "thres": benchmark.thres, "beam": options.beam, "versions": versions(),
        }  # fmt: skip
        search(options, run, model, benchmark, pairs, scores, metadata)
        result = result_of(scores.means(), metadata)
        winner = as_text(result["layers"])
        run.log(f"{result['subsets']} subsets; the best, {winner}: --layers @{run.folder / LAYERS}")
        for name, numbers in {"searched": pairs, "held_out": held_out}.items():
            result[name] = pck = mean_pck(options, model, benchmark, numbers, result["layers"])
            if pck:
                which = "other pairs" if name == "held_out" else "pairs that they were chosen on"
                values = f"{winner} {pck['pck']:.2f} %, all layers {pck['all_layers']:.2f} %"
                run.log(f"PCK@{options.alpha:g} of {len(numbers)} {which}: {values}")
        if not held_out:
            run.log("no other pairs are left: give fewer --pairs, or test these layers on another split")
        write_layers(run, result)


def search(
    options: Namespace,
    run: Run,
    model: DHPF,
    benchmark: Benchmark,
    pairs: list[int],
    scores: SubsetScores,
    metadata: Mapping[str, Any],
) -> None:
    """Measure subsets of one layer, then of one more and one more; the best so far is always in `layers.json`."""
    layers = len(model.backbone.channels)
    most = min(options.max_layers, layers)

    def next_subsets(size: int) -> Candidates:
        return candidates(scores.means(), size, options.beam, layers)

    first = next((size for size in range(1, most + 1) if scores.done(next_subsets(size)) < len(pairs)), None)
    left = [pairs[scores.done(next_subsets(first)) :], *[pairs] * (most - first)] if first else []
    generations = [batched(options, model, some)[0] for some in left]
    order = [batch for generation in generations for batch in generation]
    _, loading = batched(options, model, pairs)
    steps = encode_batches(model, benchmark, order, loading)
    for size, batches in enumerate(generations, first or 1):
        begin, subsets = time.monotonic(), next_subsets(size)
        what = f"{size} layers, {len(subsets)} subsets"
        with progress(what, sum(map(len, batches)), not options.quiet) as advance:
            for batch in batches:
                step = next(steps)
                found: SubsetPCK = {}
                for part in step.parts:
                    found |= subset_pck(model, step.pair_features(part), part, subsets, options.alpha)
                scores.add(subsets, batch, found)
                for message in step.unread:
                    run.log(f"not readable: {message}")
                advance(len(batch), best=max(scores.means(subsets).values()))
                if batch is not batches[-1] and time.monotonic() - scores.saved > SAVE_INTERVAL_S:
                    scores.save(run)
        means = scores.means()
        here, over = best(subsets, means)[0], best(means, means)[0]
        run.log(
            f"{what}: best {as_text(here)}, PCK@{options.alpha:g} {means[here]:.2f} %, "
            f"{time.monotonic() - begin:.0f} s; best so far {as_text(over)}, {means[over]:.2f} %"
        )
        write_layers(run, result_of(means, metadata))
        scores.save(run)


def write_layers(run: Run, result: Mapping[str, Any]) -> None:
    replace_file(run.folder / LAYERS, (json.dumps(result, indent=2) + "\n").encode())


def mean_pck(
    options: Namespace, model: DHPF, benchmark: Benchmark, pairs: list[int], winner: Subset
) -> dict[str, float]:
    """The mean PCK over some pairs in percent, of the layers that won (pck) and of all layers; empty: none has one."""
    subsets = {each: (each[:-1], each[-1]) for each in (winner, tuple(range(len(model.backbone.channels))))}
    batches, loading = batched(options, model, pairs)
    found: SubsetPCK = {}
    with progress(f"{as_text(winner)} and all layers", len(pairs), not options.quiet) as advance:
        for batch, step in zip(batches, encode_batches(model, benchmark, batches, loading), strict=True):
            for part in step.parts:
                of_part = subset_pck(model, step.pair_features(part), part, subsets, options.alpha)
                found |= {pair: pck for pair, pck in of_part.items() if not math.isnan(pck[0])}
            advance(len(batch))
    means = [float(np.mean(values)) for values in zip(*found.values(), strict=True)]
    return {"pck": means[0], "all_layers": means[-1]} if means else {}


def batched(options: Namespace, model: DHPF, pairs: list[int]) -> tuple[list[list[int]], LoadingConfig]:
    """Pairs that are compared together, and how they are read."""
    bsz = 1 if model.device.type == "cpu" else options.bsz
    loading = LoadingConfig(options.workers, bsz, options.cache_gb * 1e9, options.on_bad_pair)
    return [pairs[b : b + bsz] for b in range(0, len(pairs), bsz)], loading


def result_of(means: Mapping[Subset, float], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What `layers.json` holds: the best subset, what was searched, and the best of every size."""
    order = best(means, means)
    sizes = sorted({len(subset) for subset in means})
    firsts = [next(subset for subset in order if len(subset) == size) for size in sizes]
    return {
        "layers": order[0],
        "pck": means[order[0]],
        **metadata,
        "subsets": len(means),
        "best_by_size": [{"layers": subset, "pck": means[subset]} for subset in firsts],
    }


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
