"""A training run that can be stopped anywhere and goes on as if it had not been.

Everything random is a function of the seed, the epoch, the step and the process. The position in the run therefore
stands for the state of all generators.
"""

import math
import signal
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import PartialState
from PIL.Image import Image
from torch import Tensor, nn

from dhpf.common import run as files
from dhpf.common.errors import UserError, count_text
from dhpf.common.processes import gather, peak_memory, synchronise, total
from dhpf.common.program import STOP_SIGNALS, Stopped
from dhpf.common.run import Run, progress, versions
from dhpf.data.benchmark import Benchmark
from dhpf.data.loading import LoadedBatch, Loader, skip_or_raise
from dhpf.evaluation.metrics import to_float64
from dhpf.evaluation.train_test_overlap import save_training_images
from dhpf.model.dhpf import DHPF
from dhpf.training import SUPERVISIONS
from dhpf.training.examples import example, selection_map
from dhpf.training.supervision import Batch, StepResult, epoch_batches, gate_noise, to_device
from dhpf.training.totals import Totals
from dhpf.weights import files as weights
from dhpf.weights.checkpoint import load_learner
from dhpf.weights.config import ModelConfig

EXAMPLES = 3  # validation pairs that are shown
SAVE_SIGNALS = (signal.SIGUSR1,) if hasattr(signal, "SIGUSR1") else ()  # Windows has none
SIGNALS = (*STOP_SIGNALS, *SAVE_SIGNALS)


class Trainer:
    """One process of a training run.

    Args:
        options: those of `train.py`.
        processes, device: as `processes.start` gives them.
        sets: training and validation pairs, as "trn" and "val".
        model: untrained, the same in all processes.
    Raises: UserError: there are too few pairs.
    """

    def __init__(
        self,
        options: Namespace,
        processes: PartialState,
        device: torch.device,
        sets: Mapping[str, Benchmark],
        model: DHPF,
    ) -> None:
        self.options, self.device, self.sets, self.model = options, device, sets, model
        self.rank, self.process_count = processes.process_index, processes.num_processes
        if options.bsz < 2 * self.process_count:
            raise UserError(
                f"--bsz {options.bsz}: gates need batch statistics, a training batch at least 2 pairs a process"
            )
        if len(sets["trn"]) < 2 * self.process_count:
            raise UserError(f"{sets['trn'].list_path}: training needs at least two pairs a process")
        if self.process_count > 1 and device.type == "cuda":
            model.learner = nn.SyncBatchNorm.convert_sync_batchnorm(model.learner)
        model.to(device)
        self.optimizer = torch.optim.SGD(model.learner.parameters(), lr=options.lr, momentum=0.5)
        for parameter in model.learner.parameters():  # the same in all processes, and after resuming
            parameter.grad = torch.zeros_like(parameter)
        self.metadata = ModelConfig.of_model(model).to_metadata()
        # One set of workers reads both splits: (split, index).
        self.load = Loader(partial(read_pair, sets), options.workers, device.type == "cuda")
        self.no_totals = Totals(torch.zeros(len(model.backbone.channels), dtype=torch.float64))

        self.run: Run | None = None  # in the main process
        self.epoch = self.step = 0  # that are done; the steps of this epoch
        self.best = -1.0  # validation PCK
        self.totals = self.no_totals  # of this epoch's steps
        self.skipped: list[str] = []  # this epoch's unreadable training pairs, and why
        self.signals: set[int] = set()  # that came and are not answered
        self.waiting = False  # for a batch

    def train(self, run: Run | None) -> None:
        """Train into a run folder from where its state says. Only the main process has the folder.

        Raises:
            UserError: a pair cannot be read, the loss is not finite, a file cannot be written.
            Stopped: a signal asked to stop; the state is saved.
        """
        self.run, resume = run, self.options.resume
        with self._noted_signals():
            if resume and any((resume / name).exists() for name in (files.STATE, files.HISTORY)):
                self._load_state(resume / files.STATE)
            else:  # a new run, or one that was killed before it began
                self._begin()
                self._save_state()
            while self.epoch < self.options.niter:
                start = time.monotonic()
                if self.device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats(self.device)
                self._train_epoch()
                self._finish_epoch(*self._validate(), start)
                self._save_state()
                self._answer_signals()
            if run:
                final = self.best if self.best >= 0 else math.nan
                run.add_hyperparameters(vars(self.options), {"final/val_pck": final})
                best = f"best validation PCK {percent(final)}"
                best = "no PCK: the last epoch's model" if math.isnan(final) else best
                run.log(f"{best}: {run.folder / files.BEST_MODEL}")

    def _save_state(self, name: str = files.STATE) -> None:
        """Save the state of the run. All processes take part; a list has an entry for each of them."""
        totals, skipped = gather([vars(self.totals)]), gather([self.skipped])
        if self.run:
            state = {
                "learner": self.model.learner.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "epoch": self.epoch,
                "step": self.step,
                "best": self.best,
                "totals": totals,
                "skipped": skipped,
                "files": self.run.sizes(),
                "pairs": {split: len(pairs) for split, pairs in self.sets.items()},
                "metadata": self.metadata,
                "threads": torch.get_num_threads(),
                "versions": versions(),
            }
            weights.write(self.run.folder / name, state)

    def _load_state(self, path: Path) -> None:
        """Go on from a saved state. Raises: UserError: it cannot be read, or is another run's."""
        resume, threads = f"--resume {path.parent}", torch.get_num_threads()
        try:
            state = upgrade_state(weights.read(path), len(self.no_totals.selection))
            if (count := len(state["totals"])) != self.process_count:
                raise UserError(f"{resume}: the run has {count} processes, not {self.process_count}")
            for split, pairs in self.sets.items():
                if (count := state["pairs"][split]) != len(pairs):
                    change = f"pairs of '{split}': {count:g} then, {len(pairs)} now"
                    raise UserError(f"{resume}: the run began with other data, {change}")
            for kind, value in state["metadata"].items():
                if self.metadata[kind] != value:
                    raise UserError(f"{path}: the run's {kind} is {value}, not {self.metadata[kind]}")
            load_learner(self.model, path, weights.check_tensors(path, state["learner"]))
            self.optimizer.load_state_dict(state["optimizer"])
            self.epoch, self.step, self.best = state["epoch"], state["step"], state["best"]
            self.totals, self.skipped = Totals(**state["totals"][self.rank]), state["skipped"][self.rank]
            torch.set_num_threads(state["threads"])  # on which the rounding of sums depends
            sizes = dict(state["files"])
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path}: not the state of a run ({error!r})") from error
        if self.run:
            self.run.rewind(sizes)
        if (count := torch.get_num_threads()) != threads:
            self._log(f"resumed with the run's {count} threads, where this machine has {threads}")

    def _begin(self) -> None:
        """Write the first lines of the log, and which images are trained on."""
        if self.run:
            self.run.rewind({})
            save_training_images(self.run.folder, self.sets["trn"])
            backbone = self.model.backbone
            notes = [backbone.weights_note, backbone.cost_note(self.options.img_side)]
            notes += chain.from_iterable(pairs.notes for pairs in self.sets.values())
            self.run.log("\n".join(filter(None, notes)))

    def _log(self, text: str) -> None:
        if self.run:
            self.run.log(text)

    def _train_epoch(self) -> None:
        options, count = self.options, len(self.sets["trn"])
        batches = list(epoch_batches(count, options.bsz, self.process_count, options.seed, self.epoch))
        unused = count - sum(map(len, batches))
        if unused and self.epoch == self.step == 0:
            self._log(
                f"the last {unused} of an epoch's {count} shuffled pairs make no batch and are left out"
            )
        first_event = self.epoch * len(batches) + 1
        batches = batches[self.step :]
        loaded = self.load(
            [[("trn", i) for i in batch[self.rank :: self.process_count]] for batch in batches]
        )
        self.model.train()
        with self._progress("training", sum(map(len, batches))) as advance:
            for indices in batches:
                step = self._training_step(self._next_batch(loaded, self.skipped))
                if step and self.run:
                    values = torch.stack(
                        [step.matching_loss, step.selection_loss, step.selection.sum(1).mean()]
                    )
                    names = "step/matching_loss", "step/selection_loss", "step/layers_selected"
                    figures = dict(zip(names, values.tolist(), strict=True)) | {
                        "step/learning_rate": options.lr
                    }
                    self.run.add_events(first_event + self.step, figures)
                self.step += 1
                if options.save_every and self.step % options.save_every == 0:
                    self._save_state()
                advance(len(indices), **self.totals.means())

    def _training_step(self, batch: Batch | None) -> StepResult | None:
        """One step; none in all processes where unreadable pairs leave one of them fewer than two."""
        learner, size = self.model.learner, len(batch["index"]) if batch else 0
        sizes = self._total([size if rank == self.rank else 0 for rank in range(self.process_count)])
        if batch is None or min(sizes) < 2:
            self._log(f"epoch {self.epoch + 1}, step {self.step + 1} is left out: too few readable pairs")
            return None
        layers, key = len(self.no_totals.selection), (self.options.seed, self.epoch, self.step, self.rank)
        self.optimizer.zero_grad(set_to_none=False)
        step = self._forward(batch, gate_noise(layers, 2 * size, *key).to(self.device))
        step.loss.backward()
        # Statistics of a batch may overflow where loss and gradients do not yet.
        tensors = [p.grad for p in learner.parameters() if p.grad is not None]
        tensors += [b for b in learner.buffers() if b.is_floating_point()]
        norm = torch.nn.utils.get_total_norm(tensors)
        self._check_finite([] if bool(torch.isfinite(norm + step.loss.detach())) else pair_names(batch))
        self.totals += Totals.of_step(step)
        if self.process_count > 1:
            synchronise(learner, size / sum(sizes))
        self.optimizer.step()
        return step

    def _forward(self, batch: Batch, noise: Tensor | None) -> StepResult:
        options = self.options
        batch = to_device(batch, self.device) | {"frame": options.img_side}
        return SUPERVISIONS[options.supervision](self.model, batch, options.alpha, options.selection, noise)

    @torch.no_grad()
    def _validate(self) -> tuple[Totals, Tensor, list[str]]:
        """Totals over this process's validation pairs, PCK and number of each category's, and the unreadable ones."""
        options, pairs = self.options, self.sets["val"]
        totals, unreadable, not_finite = self.no_totals, list[str](), list[str]()
        by_category = torch.zeros(len(pairs.categories), 2, dtype=torch.float64)
        examples: dict[str, Image] = {}
        items = [("val", i) for i in range(len(pairs))]
        batches = [items[first : first + options.bsz] for first in range(0, len(items), options.bsz)]
        # All processes go through equally many rounds; some have nothing to do in the last.
        rounds = [batches[k : k + self.process_count] for k in range(0, len(batches), self.process_count)]
        loaded = chain(self.load(batches[self.rank :: self.process_count]), repeat((None, [])))
        self.model.eval()
        with self._progress("validation", len(pairs)) as advance:
            for round_ in rounds:
                batch = self._next_batch(loaded, unreadable)
                if batch is not None:
                    step = self._forward(batch, None)
                    totals += Totals.of_step(step)
                    pck, has_pck = to_float64(step.pck.detach()).cpu(), step.pck.isfinite().cpu()
                    entries = torch.stack([pck, has_pck.double()], 1)[has_pck]
                    by_category.index_add_(0, batch["category_id"][has_pck], entries)
                    drawn = self.run and not self.model.backbone.features  # of features there is no picture
                    for i in range(min(len(pck), EXAMPLES - len(examples)) if drawn else 0):
                        image = example(batch, i, step.predicted[i], options.alpha)
                        examples[f"examples/{len(examples) + 1}"] = image
                    not_finite += [] if bool(torch.isfinite(step.loss)) else pair_names(batch)
                advance(sum(map(len, round_)), **totals.means())
        self._check_finite(not_finite)
        if self.run:
            self.run.add_events(self.epoch + 1, {}, examples)
        return totals, by_category, unreadable

    def _finish_epoch(self, totals: Totals, by_category: Tensor, unreadable: list[str], start: float) -> None:
        """Record the figures of an epoch, and its model if it is the best. Args: as `_validate` returns them."""
        training, validation = (sum(gather([t]), start=self.no_totals) for t in (self.totals, totals))
        by_category, skipped = sum(gather([by_category])), gather(self.skipped + unreadable)
        figures = {f"trn_{name}": value for name, value in training.means().items()}
        figures |= {f"val_{name}": value for name, value in validation.means().items()}
        better = figures["val_pck"] > self.best
        no_pck_yet = self.best < 0 and math.isnan(figures["val_pck"])  # then the last epoch's model is kept
        self.best = figures["val_pck"] if better else self.best
        self.epoch, self.step, self.totals, self.skipped = self.epoch + 1, 0, self.no_totals, []
        if not self.run:
            return
        if better or no_pck_yet:
            learner = {k: v.cpu() for k, v in self.model.learner.state_dict().items()}
            for name in (files.BEST_MODEL, files.BEST_MODEL_SAFETENSORS):
                weights.write(self.run.folder / name, learner, self.metadata)
        epoch, seconds = f"epoch {self.epoch}", time.monotonic() - start
        rates = (training.selection / max(training.pairs, 1)).tolist()
        lines = [f"skipped: {error}" for error in skipped]
        lines += [f"{epoch}: {count_text(len(skipped), 'pair')} skipped"] if skipped else []
        lines.append(
            f"{epoch}/{self.options.niter}: training loss {figures['trn_loss']:.4f} "
            f"PCK {percent(figures['trn_pck'])}, validation loss {figures['val_loss']:.4f} "
            f"PCK {percent(figures['val_pck'])}{' (best)' if better else ''}, "
            f"{sum(rates):.1f} of {len(rates)} layers selected, {seconds:.0f} s"
        )
        for split, t in (("training", training), ("validation", validation)):
            if 0 < t.pck_pairs < t.pairs:
                without = count_text(round(t.pairs - t.pck_pairs), f"{split} pair")
                lines.append(
                    f"{epoch}: {without} without PCK: no key-points, or a threshold of zero: "
                    "python -m dhpf.data.verify names them"
                )
        self.run.log("\n".join(lines))
        figures |= {f"selection/{layer:02d}": rate for layer, rate in enumerate(rates)}
        used = {"seconds": seconds, **peak_memory(self.device)}
        self.run.record(self.epoch, figures)
        self.run.record(self.epoch, {k: round(v, 3) for k, v in used.items()}, files.RESOURCES)
        # TensorBoard groups scalars by what is before the slash.
        scalars = {k if "/" in k else f"{k.rpartition('_')[2]}/{k}": v for k, v in figures.items()}
        categories = zip(self.sets["val"].categories, by_category.tolist(), strict=True)
        scalars |= {f"val_pck/{name}": pck / pairs for name, (pck, pairs) in categories if pairs}
        layers = selection_map(self.run.folder / files.HISTORY)
        self.run.add_events(self.epoch, scalars, {"selection/all": layers})

    def _check_finite(self, not_finite: list[str]) -> None:
        """Save the state beside the run's and stop all processes if any names pairs whose results are not finite."""
        if not any(self._total([len(not_finite)])):
            return
        not_finite = gather(not_finite)
        self._save_state(files.NOT_FINITE)
        raise UserError(
            f"epoch {self.epoch + 1}, step {self.step + 1}: the loss, a gradient or batch statistics are not finite at "
            f"{', '.join(not_finite)}; lower --lr or look at these images (the state is in {files.NOT_FINITE} of the "
            "run folder)"
        )

    @contextmanager
    def _noted_signals(self) -> Iterator[None]:
        """Within, signals are noted, to be answered between two steps. Those that were ignored (nohup) stay so."""
        ignored = [number for number in STOP_SIGNALS if signal.getsignal(number) == signal.SIG_IGN]
        before = {n: signal.signal(n, self._note_signal) for n in SIGNALS if n not in ignored}
        try:
            yield
        finally:
            # What asks to save must not end the process while it writes its report.
            for number, handler in (before | dict.fromkeys(SAVE_SIGNALS, signal.SIG_IGN)).items():
                signal.signal(number, handler)

    def _note_signal(self, number: int, _: FrameType | None) -> None:
        self.signals.add(number)
        if self.waiting and number in STOP_SIGNALS:
            self.waiting = False
            raise Stopped(number)

    def _next_batch(self, loaded: Iterator[LoadedBatch], unreadable: list[str]) -> Batch | None:
        """The next batch, if any of its pairs can be read; what cannot is added to `unreadable`.

        Answers signals. One that stops is answered without the batch: the worker that loads it may hang.
        """
        batch: Batch | None = None
        errors: list[str] = []
        try:
            self.waiting = True
            if self.signals.isdisjoint(STOP_SIGNALS):
                batch, errors = next(loaded)
        except Stopped:
            pass
        finally:
            self.waiting = False
        self._answer_signals()
        unreadable += skip_or_raise(errors, self.options.on_bad_pair)
        return batch

    def _answer_signals(self) -> None:
        """Save the state if any process got a signal. Stop all processes unless it was SIGUSR1."""
        noted, self.signals = self.signals, set()
        counts = self._total([int(number in noted) for number in SIGNALS])
        if any(counts):
            self._save_state()
        for number, count in zip(STOP_SIGNALS, counts, strict=False):
            if count:
                raise Stopped(number)

    def _progress(self, name: str, pairs: int) -> Any:
        visible = self.run is not None and not self.options.quiet
        return progress(f"epoch {self.epoch + 1} {name}", pairs, visible)

    def _total(self, counts: list[int]) -> list[int]:
        """Sums over processes."""
        if self.process_count == 1:
            return counts
        return total(torch.tensor(counts, device=self.device)).tolist()


def upgrade_state(state: Any, layers: int) -> dict[str, Any]:
    """A state of a run, also of earlier versions, with the keys that `Trainer._save_state` writes."""
    state = dict(state)
    if "sums" not in state:
        return state
    totals = []
    for sums in state["sums"]:
        loss, pairs, pck, pck_pairs, *selection = sums.tolist()
        selection_loss = selection.pop() if len(selection) > layers else math.nan
        totals.append(
            vars(
                Totals(
                    torch.tensor(selection, dtype=torch.float64), pairs, loss, selection_loss, pck, pck_pairs
                )
            )
        )
    pairs = {split: state["material"][f"pairs of '{split}'"] for split in ("trn", "val")}
    return {**state, "totals": totals, "pairs": pairs, "metadata": state.get("about", {})}


def read_pair(sets: Mapping[str, Benchmark], item: tuple[str, int]) -> dict[str, Any]:
    split, index = item
    return sets[split][index]


def pair_names(batch: Batch) -> list[str]:
    """The pairs of a batch, each as the names of its images."""
    return [f"{s} - {t}" for s, t in zip(batch["src_key"], batch["trg_key"], strict=True)]


def percent(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.2f} %"
