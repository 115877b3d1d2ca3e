"""The report of a training run: `report.html` in its folder."""

import json
from pathlib import Path

import pandas as pd

from dhpf.common.run import HISTORY, OPTIONS, RESOURCES
from dhpf.report import pictures
from dhpf.report.page import REPORT, SHOWN, Section, picture, rounded_rows, write_report

EPOCHS = {  # what is told of each epoch of a training, and in words
    "epoch": "Epoch",
    "trn_loss": "Training loss",
    "trn_matching_loss": "of matching",
    "trn_selection_loss": "of selection",
    "val_loss": "Validation loss",
    "val_matching_loss": "of matching",
    "val_selection_loss": "of selection",
    "trn_pck": "Training PCK (%)",
    "val_pck": "Validation PCK (%)",
    "layers": "Layers selected",
    "seconds": "Time (s)",
    "memory": "Memory (GiB)",
    "GPU memory": "GPU memory (GiB)",
}


def report_training(folder: Path) -> None:
    """Writes the report of a training run from what its folder holds: headline, curves, epochs, layers, options.

    What a run of an earlier version did not record is left out; a run of no epochs gets no report.
    """
    if not (folder / HISTORY).exists():
        return
    history = pd.read_csv(folder / HISTORY)
    options = json.loads((folder / OPTIONS).read_text())
    versions = options.pop("versions", {})
    for split in ("trn", "val"):  # the loss has two parts
        if f"{split}_selection_loss" in history:
            history[f"{split}_matching_loss"] = history[f"{split}_loss"] - history[f"{split}_selection_loss"]
    layers = history.filter(regex="^selection/").rename(columns=lambda name: name.rpartition("/")[2])
    history["layers"] = layers.sum(axis=1)
    if (folder / RESOURCES).exists():
        history = history.merge(pd.read_csv(folder / RESOURCES), "left", "epoch")
    drawn = [
        picture(pictures.training_curves(history), "Curves", "Loss, PCK and selected layers over the epochs")
    ]
    if "trn_matching_loss" in history:
        drawn.append(picture(pictures.loss_parts(history), "Curves", "The parts of the loss over the epochs"))
    shown = {name: words for name, words in EPOCHS.items() if name in history}
    rates = layers.assign(epoch=history.epoch)[["epoch", *layers]]
    sections = [
        Section(tiles=_best_of(history, layers.shape[1])),
        Section("Training", pictures=drawn),
        Section(
            "Epochs", list(shown.values()), rounded_rows(history[list(shown)]), listed=len(history) > SHOWN
        ),
        Section("", list(rates), rounded_rows(rates), folded="How often each layer is selected, as a table"),
        Section("Options", facts=options),
        Section("Versions", facts=versions),
    ]
    title = f"Training of DHPF on {options['benchmark']}, {options['supervision']} supervision"
    write_report(folder / REPORT, title, sections)


def _best_of(history: pd.DataFrame, layers: int) -> list[tuple[str, str, str]]:
    """What matters most of a training, as a page's tiles."""
    last = history.iloc[-1]
    tiles = [
        (
            "Layers selected",
            f"{last.layers:.1f} of {layers}",
            f"mean over training pairs, epoch {last.epoch:g}",
        )
    ]
    if history.val_pck.notna().any():
        best = history.loc[history.val_pck.idxmax()]
        of = f"mean over validation pairs, epoch {best.epoch:g} of {len(history)}: the model that is kept"
        tiles.insert(0, ("Best validation PCK", f"{best.val_pck:.2f} %", of))
    if "seconds" in history:
        total = pd.Timedelta(seconds=round(history.seconds.sum()))
        tiles.append(("Time", str(total).removeprefix("0 days "), f"{history.seconds.mean():.1f} s an epoch"))
    for name in ("memory", "GPU memory"):
        if name in history:
            tiles.append(
                (
                    name.capitalize() if name == "memory" else name,
                    f"{history[name].max():.2f} GiB",
                    "the most of any epoch",
                )
            )
    return tiles
