"""The report of a training run: `report.html` in its folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from dhpf.common.run import HISTORY, OPTIONS, RESOURCES
from dhpf.report import pictures
from dhpf.report.page import PAGE_ROWS, REPORT, Picture, Section, option_sections, table_rows, write_report

EPOCHS = {  # columns of the table of epochs, and their headings
    "epoch": "Epoch",
    "trn_loss": "Training loss",
    "trn_matching_loss": "matching part",
    "trn_selection_loss": "selection part",
    "val_loss": "Validation loss",
    "val_matching_loss": "matching part",
    "val_selection_loss": "selection part",
    "trn_pck": "Training PCK (%)",
    "val_pck": "Validation PCK (%)",
    "layers": "Layers selected",
    "seconds": "Time (s)",
    "memory": "Memory (GiB)",
    "GPU memory": "GPU memory (GiB)",
}


def report_training(folder: Path, defaults: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Writes the report of a training run from what its folder holds: best epoch, curves, epochs, layers, options.

    What a run of an earlier version did not record is left out; a run of no epochs gets no report.
    Args: defaults: of the options, those at which are folded away.
    """
    if not (folder / HISTORY).exists():
        return
    history = pd.read_csv(folder / HISTORY)
    options = json.loads((folder / OPTIONS).read_text())
    versions = options.pop("versions", {})
    for split in ("trn", "val"):  # the loss has two parts
        if f"{split}_selection_loss" in history:
            history[f"{split}_matching_loss"] = history[f"{split}_loss"] - history[f"{split}_selection_loss"]
    rates = history.filter(regex="^selection/").rename(columns=lambda name: name.rpartition("/")[2])
    history["layers"] = rates.sum(axis=1)
    if (folder / RESOURCES).exists():
        history = history.merge(pd.read_csv(folder / RESOURCES), "left", "epoch")
    curves = Picture.of_figure(
        pictures.training_curves(history), "Curves", "Loss, PCK and selected layers over the epochs"
    )
    columns = {name: heading for name, heading in EPOCHS.items() if name in history}
    decimals = {"trn_pck": 2, "val_pck": 2, "layers": 1}
    paged, by_layer = len(history) > PAGE_ROWS, rates.assign(epoch=history.epoch)[["epoch", *rates]]
    sections = [
        Section(tiles=best_epoch(history, rates.shape[1])),
        Section("Training", pictures=[curves]),
        Section(
            "Epochs", list(columns.values()), table_rows(history[list(columns)].round(decimals)), paged=paged
        ),
        Section("How often each layer is selected", list(by_layer), table_rows(by_layer), folded=True),
        *option_sections(options, defaults),
        Section("Versions", folded=True, facts=versions),
    ]
    title = f"Training of DHPF on {options['benchmark']}, {options['supervision']} supervision"
    write_report(folder / REPORT, title, sections)


def best_epoch(history: pd.DataFrame, layers: int) -> list[tuple[str, str, str]]:
    """What matters most of a training, as a page's tiles."""
    last, tiles = history.iloc[-1], []
    if history.val_pck.notna().any():
        best = history.loc[history.val_pck.idxmax()]
        note = f"mean over validation pairs, epoch {best.epoch:g} of {len(history)}: the saved model"
        tiles.append(("Best validation PCK", f"{best.val_pck:.2f} %", note))
    selected = f"{last.layers:.1f} of {layers}"
    tiles.append(("Layers selected", selected, f"mean over training pairs, epoch {last.epoch:g}"))
    if "seconds" in history:
        total = pd.Timedelta(seconds=round(history.seconds.sum()))
        tiles.append(("Time", str(total).removeprefix("0 days "), f"{history.seconds.mean():.1f} s an epoch"))
    for column, name in (("memory", "Memory"), ("GPU memory", "GPU memory")):
        if column in history:
            tiles.append((name, f"{history[column].max():.2f} GiB", "the most of any epoch"))
    return tiles
