"""A training run that can be stopped anywhere and goes on as if it had not been."""

import math
import signal
import time
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor, nn

from dhpf.common.errors import UserError
from dhpf.common.processes import gather, peak_memory, start, synchronise, total
from dhpf.common.program import STOPS
from dhpf.common.run import HISTORY, Run, progress, versions
from dhpf.data import open_benchmark
from dhpf.data.benchmark import Benchmark, write_trained
from dhpf.data.loading import Loader, skip_or_raise
from dhpf.model.ablation import Ablation
from dhpf.model.options import BEST, STATES
from dhpf.training import SUPERVISIONS
from dhpf.training.examples import example, selected
from dhpf.training.options import TrainOptions
from dhpf.training.supervision import Batch, StepResult, epoch_batches, gate_noise, to_device
from dhpf.weights import files as weights
from dhpf.weights.checkpoint import build_model, load_learner

STATE, NOT_FINITE = STATES
BEST_TWIN = "best_model.safetensors"
EXAMPLES = 3  # validation pairs that are shown
SAVE = getattr(signal, "SIGUSR1", None)  # Windows has none


class Trainer:
    """One process of a training run.

    Everything random is a function of the seed, the epoch and the step, so the position in the run stands for
    the state of all generators.
    """

    def __init__(self, options: TrainOptions) -> None:
        """Opens data and model.

        Raises:
            UserError: they cannot be used.
        """
        self.options = options
        self.processes, self.device = start(options.device)
        count = self.processes.num_processes
        if options.bsz < 2 * count:
            raise UserError(
                f"--bsz {options.bsz}: gates need batch statistics, a training batch at least 2 pairs a process"
            )
        if len(options.list) not in (0, 2):
            raise UserError("--list: give two lists, of training and of validation pairs")
        self.sets = {
            split: open_benchmark(
                options.benchmark,
                options.datapath,
                split,
                options.thres,
                options.img_side,
                not options.no_download,
                own=options.own,
                pair_list=pair_list,
                only=options.categories,
            )
            for split, pair_list in zip(("trn", "val"), options.list or (None, None), strict=True)
        }
        if len(self.sets["trn"]) < 2 * count:
            raise UserError(f"{self.sets['trn'].list_path}: one pair makes no training batch, two are needed")
        torch.manual_seed(options.seed)
        self.model = build_model(
            options.backbone,
            options.backbone_weights,
            options.voting,
            options.backbone_layers,
            options.backbone_side,
            options.width,
        )
        self.model.ablate(Ablation(options.layers))
        for data in self.sets.values():
            data.picture_side = self.model.backbone.input_size_for(options.img_side)
        self.model.bf16 = options.precision == "bf16"
        if count > 1 and self.device.type == "cuda":
            self.model.learner = nn.SyncBatchNorm.convert_sync_batchnorm(self.model.learner)
        self.model.to(self.device)
        self.optimizer = torch.optim.SGD(self.model.learner.parameters(), lr=options.lr, momentum=0.5)
        for parameter in self.model.learner.parameters():  # the same in all processes, and after a resumption
            parameter.grad = torch.zeros_like(parameter)
        self.material = self._material()
        self.epoch = self.step = 0
        self.best = -1.0
        self.steps = 0  # of an epoch
        self.sums = self._no_sums()
        self.skipped: list[str] = []  # training pairs of this epoch, and why
        # One set of workers reads both splits: (split, index).
        self.load = Loader(partial(_item, self.sets), options.workers, self.device.type == "cuda")
        self.run: Run | None = None
        self.asked: set[int] = set()  # signals that came

    def train(self, folder: Path) -> None:
        """Train into a run folder, from where its state says; one named by the time may get a number, too.

        Raises:
            UserError: a pair cannot be read, the loss is not finite, a file cannot be written.
            SystemExit: a signal asked to stop; the state is saved.
        """
        numbers = [number for number in STOPS if signal.getsignal(number) != signal.SIG_IGN]  # nohup
        numbers += [SAVE] if SAVE else []
        before = [signal.signal(number, lambda number, _: self.asked.add(number)) for number in numbers]
        with ExitStack() as stack:
            # What asks to save must not end the process while it writes its report.
            after = [signal.SIG_IGN if n == SAVE else h for n, h in zip(numbers, before, strict=True)]
            stack.callback(lambda: [signal.signal(n, h) for n, h in zip(numbers, after, strict=True)])
            self._open_run(folder, stack)
            while self.epoch < self.options.niter:
                begin = time.monotonic()
                if self.device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats(self.device)
                self._training_pass()
                self._finish_epoch(*self._validation_pass(), begin)
            best = (
                f"best validation PCK {percent(self.best)}"
                if self.best >= 0
                else "no PCK: the last epoch's model"
            )
            if self.run:
                final = {"final/val_pck": self.best if self.best >= 0 else math.nan}
                self.run.conclude(asdict(self.options), final)
                self.run.log(f"{best}: {self.run.folder / BEST}")

    @property
    def visible(self) -> bool:
        """Whether this process shows its progress."""
        return self.run is not None and not self.options.quiet

    def log(self, text: str) -> None:
        if self.run:
            self.run.log(text)

    def _tell(self) -> None:
        """What was read, as the log begins, and which images are trained on."""
        if self.run:
            write_trained(self.run.folder, self.sets["trn"])
        notes = [note for data in self.sets.values() for note in data.notes]
        net = self.model.backbone
        self.log("\n".join(filter(None, [net.weights_note, net.cost_note(self.options.img_side), *notes])))

    def _open_run(self, folder: Path, stack: ExitStack) -> None:
        """The run folder in the main process: a new one, or the one to resume with the state that it holds.

        Args: stack: ends the run.
        """
        threads = torch.get_num_threads()
        main = self.processes.is_main_process
        if main and self.options.resume:
            self.run = Run(folder, self.options.quiet)
            stack.enter_context(self.run.ending())
        if not self.options.resume:
            if main:
                about = asdict(self.options) | {"about": self.about, "versions": versions()}
                numbered = not self.options.logpath
                self.run = Run.create(folder, about, numbered=numbered, quiet=self.options.quiet)
                stack.enter_context(self.run.ending())
                self._tell()
            self._save()
            return
        sizes: dict[str, int] = {}
        if (folder / STATE).exists() or (folder / HISTORY).exists():  # else it was killed before it began
            sizes = self._restore(folder / STATE)
        if self.run:
            self.run.rewind(sizes)
            if not sizes:
                self._tell()
        if torch.get_num_threads() != threads:
            self.log(
                f"resumed with the run's {torch.get_num_threads()} threads, where this machine has {threads}"
            )

    def _state(self) -> dict[str, Any]:
        """The whole state of the run; a list has an entry for each process."""
        return {
            "learner": self.model.learner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "best": self.best,
            "sums": gather([self.sums]),
            "skipped": gather([self.skipped]),
            "files": self.run.sizes() if self.run else {},
            "material": self.material,
            "threads": torch.get_num_threads(),
            "about": self.about,
            "versions": versions(),
        }

    def _material(self) -> dict[str, float]:
        """What tells one data set and one backbone from another, wherever they lie."""
        sizes = {f"pairs of '{split}'": float(len(data)) for split, data in self.sets.items()}
        norms = [p.double().abs().sum().item() for p in self.model.backbone.parameters()]
        return sizes | {"backbone weights (sum of their sizes)": sum(norms)}

    def _restore(self, path: Path) -> dict[str, int]:
        """Take over a saved state; returns the sizes that the growing files had.

        Raises:
            UserError: it cannot be read, or is another run's.
        """
        state, rank = weights.read(path), self.processes.process_index
        try:
            count = len(state["sums"])
            if count != self.processes.num_processes:
                raise UserError(
                    f"--resume {path.parent}: the run has {count} processes, not {self.processes.num_processes}"
                )
            for kind, other in state.get("about", {}).items():  # runs of earlier versions do not say it
                if other != self.about[kind]:
                    raise UserError(f"{path}: the run's {kind} is {other}, not {self.about[kind]}")
            for name, now in self.material.items():
                if not math.isclose(now, state["material"][name], rel_tol=1e-5):
                    raise UserError(
                        f"--resume {path.parent}: the run began with other data or weights, "
                        f"{name}: {state['material'][name]:g} then, {now:g} now"
                    )
            load_learner(self.model, path, weights.checked(path, state["learner"]))
            self.optimizer.load_state_dict(state["optimizer"])
            self.epoch, self.step, self.best = (state[k] for k in ("epoch", "step", "best"))
            sums, self.skipped = state["sums"][rank], state["skipped"][rank]
            missing = max(
                0, len(self.sums) - len(sums)
            )  # an earlier version did not sum the selection's loss
            self.sums = torch.cat([sums, torch.full((missing,), math.nan, dtype=sums.dtype)])
            torch.set_num_threads(state["threads"])  # on which the rounding of sums depends
            return dict(state["files"])
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path}: not the state of a run ({error!r})") from error

    def _save(self) -> None:
        """Write the state of the run: the main process writes, all take part."""
        state = self._state()
        if self.run:
            weights.write(self.run.folder / STATE, state)

    def _obey(self) -> None:
        """Save the state if a signal came to any process, and stop unless it was SIGUSR1."""
        asked = self._total(torch.tensor([number in self.asked for number in (*STOPS, SAVE)]).int())
        self.asked.clear()
        if asked.any():
            self._save()
        if asked[:-1].any():
            number = STOPS[int(asked[:-1].argmax())]
            self.log(
                f"stopped by {number.name}: continue with --resume {self.run.folder if self.run else ''}"
            )
            raise SystemExit(128 + number)

    def _training_pass(self) -> None:
        options, rank, count = self.options, self.processes.process_index, self.processes.num_processes
        data = self.sets["trn"]
        batches = list(epoch_batches(len(data), options.bsz, count, options.seed, self.epoch))
        self.steps, left = len(batches), len(data) - sum(map(len, batches))
        if left and self.epoch == self.step == 0:
            self.log(
                f"the last {left} of an epoch's {len(data)} shuffled pairs make no batch and are left out"
            )
        self.model.train()
        todo = batches[self.step :]
        loaded = self.load([[("trn", i) for i in b[rank::count]] for b in todo])
        with progress(f"epoch {self.epoch + 1} training", sum(map(len, todo)), self.visible) as advance:
            for whole, (batch, errors) in zip(todo, loaded, strict=True):
                self.skipped += skip_or_raise(errors, options.on_bad_pair)
                self._training_step(batch)
                self.step += 1
                if options.save_every and self.step % options.save_every == 0:
                    self._save()
                self._obey()
                advance(len(whole), **self._means(self.sums))

    def _training_step(self, batch: Batch | None) -> None:
        """One step, or none in all processes where unreadable pairs leave one of them less than two."""
        options, learner, rank = self.options, self.model.learner, self.processes.process_index
        sizes = torch.zeros(self.processes.num_processes, dtype=torch.int64)
        sizes[rank] = 0 if batch is None else len(batch["index"])
        sizes = self._total(sizes)
        if batch is None or sizes.min() < 2:
            self.log(f"epoch {self.epoch + 1}, step {self.step + 1} is left out: too few readable pairs")
            return
        size = len(batch["index"])
        noise = gate_noise(
            len(self.model.backbone.channels), 2 * size, options.seed, self.epoch, self.step, rank
        )
        self.optimizer.zero_grad(set_to_none=False)
        step = self._forward(batch, noise.to(self.device))
        step.loss.backward()
        # Statistics of a batch may overflow where loss and gradients do not yet.
        kept = [p.grad for p in learner.parameters() if p.grad is not None]
        kept += [b for b in learner.buffers() if b.is_floating_point()]
        norm = torch.nn.utils.get_total_norm(kept)
        self._check_finite([] if bool(torch.isfinite(norm + step.loss.detach())) else names(batch))
        self.sums += self._sums_of(step)
        self._show_step(step)
        if len(sizes) > 1:
            synchronise(learner, size / int(sizes.sum()))
        self.optimizer.step()

    def _show_step(self, step: StepResult) -> None:
        if self.run:
            parts = [step.matching.detach(), step.selecting.detach(), step.selection.sum(1).mean()]
            names = ("matching_loss", "selection_loss", "layers_selected")
            figures = {f"step/{n}": v for n, v in zip(names, torch.stack(parts).tolist(), strict=True)}
            figures["step/learning_rate"] = self.options.lr
            self.run.show(self.epoch * self.steps + self.step + 1, figures)

    def _forward(self, batch: Batch, noise: Tensor | None) -> StepResult:
        options = self.options
        batch = to_device(batch, self.device) | {"frame": options.img_side}
        return SUPERVISIONS[options.supervision](self.model, batch, options.alpha, options.selection, noise)

    @torch.no_grad()
    def _validation_pass(self) -> tuple[Tensor, list[str]]:
        """Sums over the validation pairs, and which of this process's could not be read and why.

        Shows PCK by category, and the first pairs.
        """
        options, rank, count = self.options, self.processes.process_index, self.processes.num_processes
        data = self.sets["val"]
        self.model.eval()
        sums, bad, skipped = self._no_sums(), [], []
        by_category = torch.zeros(len(data.categories), 2, dtype=torch.float64)  # PCK and pairs that have one
        examples: dict[str, Image] = {}
        batches = [list(range(len(data)))[b : b + options.bsz] for b in range(0, len(data), options.bsz)]
        mine = batches[rank::count]
        loaded = self.load([[("val", i) for i in b] for b in mine])
        with progress(f"epoch {self.epoch + 1} validation", len(data), self.visible) as advance:
            for indices, (batch, errors) in zip(mine, loaded, strict=True):
                skipped += skip_or_raise(errors, options.on_bad_pair)
                if batch is not None:
                    step = self._forward(batch, None)
                    sums += self._sums_of(step)
                    pck, known = step.pck.double().cpu(), step.pck.isfinite().cpu()
                    entries = torch.stack([pck, known.double()], 1)[known]
                    by_category.index_add_(0, batch["category_id"][known], entries)
                    for i in range(min(len(pck), EXAMPLES - len(examples)) if self.run else 0):
                        pair = example(batch, i, step.predicted[i], options.alpha)
                        examples[f"examples/{len(examples) + 1}"] = pair
                    if not bool(torch.isfinite(step.loss)):
                        bad += names(batch)
                advance(count * len(indices), **self._means(sums))
                self._obey()
        if len(mine) < math.ceil(len(batches) / count):
            self._obey()  # as often as the processes that had a batch more
        self._check_finite(bad)
        by_category = self._total(by_category)
        if self.run:
            rates = zip(data.categories, by_category.tolist(), strict=True)
            figures = {f"val_pck/{name}": pck / count for name, (pck, count) in rates if count}
            self.run.show(self.epoch + 1, figures, examples)
        return self._total(sums), skipped

    def _finish_epoch(self, validation: Tensor, unread: list[str], begin: float) -> None:
        training = self._total(self.sums)
        figures = {f"trn_{k}": v for k, v in self._means(training).items()}
        figures |= {f"val_{k}": v for k, v in self._means(validation).items()}
        rates = (training[4:-1] / training[1].clamp(min=1)).tolist()
        seconds = time.monotonic() - begin
        skipped = gather(self.skipped + unread)
        self.epoch, self.step, self.sums, self.skipped = self.epoch + 1, 0, self._no_sums(), []
        best = figures["val_pck"] > self.best
        better = best or (
            self.best < 0 and math.isnan(figures["val_pck"])
        )  # without any PCK the last is kept
        if best:
            self.best = figures["val_pck"]
        if self.run:
            if better:
                learner = {k: v.cpu() for k, v in self.model.learner.state_dict().items()}
                for name in (BEST, BEST_TWIN):
                    weights.write(self.run.folder / name, learner, self.about)
            for error in skipped:
                self.log(f"skipped: {error}")
            if skipped:
                self.log(f"epoch {self.epoch}: {len(skipped)} pairs skipped")
            self.log(
                f"epoch {self.epoch}/{self.options.niter}: training loss {figures['trn_loss']:.4f} "
                f"PCK {percent(figures['trn_pck'])}, validation loss {figures['val_loss']:.4f} "
                f"PCK {percent(figures['val_pck'])}{' (best)' if best else ''}, "
                f"{sum(rates):.1f} of {len(rates)} layers selected, {seconds:.0f} s"
            )
            for part, sums in (("training", training), ("validation", validation)):
                pairs, known = int(sums[1]), int(sums[3])
                if 0 < known < pairs:
                    self.log(
                        f"epoch {self.epoch}: {pairs - known} {part} pairs are in no PCK, without key-points or with a "
                        "threshold of zero: python -m dhpf.data.verify names them"
                    )
            self.run.record(
                self.epoch, figures | {f"selection/{k:02d}": rate for k, rate in enumerate(rates)}
            )
            self.run.record_resources(self.epoch, {"seconds": seconds, **peak_memory(self.device)})
            self.run.show(self.epoch, {}, {"layers": selected(self.run.folder / HISTORY)})
        self._save()
        self._obey()

    @property
    def about(self) -> dict[str, str]:
        """What state and checkpoints say of themselves."""
        layers = self.model.ablation.fixed_layers
        fixed = {"layers": ",".join(map(str, layers))} if layers else {}
        return {**self.model.backbone.metadata, **fixed, "voting": self.model.voting}

    def _check_finite(self, bad: list[str]) -> None:
        """Stop all processes, with the state saved beside the run's, if any names pairs."""
        if not self._total(torch.tensor(len(bad))):
            return
        bad, state = gather(bad), self._state()
        if self.run:
            weights.write(self.run.folder / NOT_FINITE, state)
        raise UserError(
            f"epoch {self.epoch + 1}, step {self.step + 1}: the loss, a gradient or batch statistics are not finite at "
            f"{', '.join(bad)}; lower --lr or look at these images (the state is in {NOT_FINITE} of the run folder)"
        )

    def _total(self, values: Tensor) -> Tensor:
        """Sum over processes."""
        # MPS has no float64, and is one process.
        return total(values if self.device.type == "mps" else values.to(self.device)).cpu()

    def _no_sums(self) -> Tensor:
        """Loss, pairs, PCK, pairs with key-points, every layer's selection, and the loss of the selection, summed over
        no pairs."""
        return torch.zeros(5 + len(self.model.backbone.channels), dtype=torch.float64)

    @staticmethod
    def _sums_of(step: StepResult) -> Tensor:
        pairs, known = len(step.pck), step.pck.isfinite()
        loss, pck = step.loss.item() * pairs, float(step.pck[known].sum())
        head = torch.tensor([loss, pairs, pck, int(known.sum())], dtype=torch.float64)
        selecting = step.selecting.detach().cpu().double()[None]
        return torch.cat([head, step.selection.cpu().double().mean(0) * pairs, selecting * pairs])

    @staticmethod
    def _means(sums: Tensor) -> dict[str, float]:
        loss, pairs, pck, known = sums[:4].tolist()
        selecting = float(sums[-1]) / max(pairs, 1)
        return {
            "loss": loss / max(pairs, 1),
            "pck": pck / known if known else math.nan,
            "selection_loss": selecting,
        }


def percent(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.2f} %"


def names(batch: Batch) -> list[str]:
    """The pairs of a batch, each as the names of its images."""
    return [f"{s} - {t}" for s, t in zip(batch["src_key"], batch["trg_key"], strict=True)]


def _item(sets: dict[str, Benchmark], item: tuple[str, int]) -> dict[str, Any]:
    split, index = item
    return sets[split][index]
