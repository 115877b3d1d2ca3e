"""The models that the authors released, by name: `dhpf:spair-strong-resnet101`.

A released model lies in a cache, as `<trained on>-<supervision>-<backbone>-mu<μ>.pt`, or under any name with these
words and numbers. Links are those of the published program's README; it links the PF-PASCAL models as folders, whose
files have to be saved by hand.
"""

import os
import re
from pathlib import Path

from dhpf.common.download import DRIVE, fetch
from dhpf.common.errors import UserError
from dhpf.common.run import BEST_MODEL

PREFIX = "dhpf:"
FILES = {  # ids on Google Drive
    "spair-weak-resnet101-mu0.5": "1uDfONwSiAzDsxW9wbhdlYKf8auqAVXoM",
    "spair-strong-resnet101-mu0.5": "1DnsDhttMIImAcupdjuANowlgZqVSx_5E",
}
FOLDERS = {
    "pfpascal-weak-resnet50": "1WykysKyy9PAsX-DpC5UuZILokCMToJWH",
    "pfpascal-weak-resnet101": "1IjjoFgrIZzys2YDEGhLQrOg0bTG29-Pl",
    "pfpascal-strong-resnet50": "1RC9EbVhk8QOjpF3NIO-tidIsKcY399S8",
    "pfpascal-strong-resnet101": "1QDYOxqF-BsWKjKbwLKfbcfxaS5OHlbVT",
}
MUS = ("0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1")


def cache() -> Path:
    """The folder of released models: $DHPF_CACHE, else ~/.cache/dhpf."""
    try:
        return Path(os.environ.get("DHPF_CACHE") or "~/.cache/dhpf").expanduser()
    except RuntimeError:  # no HOME, and the user is in no list
        raise UserError(
            "there is no home folder: say where released models lie with DHPF_CACHE=FOLDER"
        ) from None


def released(name: str) -> tuple[str, str] | None:
    """What a name of a released model, `dhpf:<trained on>-<supervision>-<backbone>`, means: the model and its μ.

    `-mu<μ>` stands at the end for another μ than 0.5. None: the name is a path.
    Raises:
        UserError: there is no such model.
    """
    if not name.startswith(PREFIX):
        return None
    model, _, mu = name.removeprefix(PREFIX).partition("-mu")
    mu = mu or "0.5"
    if f"{model}-mu{mu}" not in FILES and (model not in FOLDERS or mu not in MUS):
        models = sorted([*(f.removesuffix("-mu0.5") for f in FILES), *FOLDERS])
        raise UserError(
            f"{name}: no such released model, choose one of {', '.join(models)} after '{PREFIX}', those of pfpascal "
            f"also with -mu{MUS[0]} to -mu{MUS[-1]} at the end"
        )
    return model, mu


def is_named(file: Path, model: str, mu: str) -> bool:
    """Whether a file in the cache, saved by hand, has the parts of a model's name in its own or its folders' names."""
    text = file.relative_to(cache()).as_posix().lower()
    trained_on, supervision, backbone = model.split("-")
    words = (trained_on.removeprefix("pf"), supervision, backbone.removeprefix("resnet"))
    numbers = map(float, re.findall(r"\d+\.\d+|\d+", text))
    return all(word in text for word in words) and (trained_on == "spair" or float(mu) in numbers)


def resolve(name: str) -> Path:
    """The checkpoint that `--load` names: a file, a run folder's best model, or a released model, fetched into the
    cache if it is not there.

    A released model is checked to be a learner of its backbone.
    Raises:
        UserError: no such model; it cannot be fetched (says where to save it by hand); the file is no such model.
    """
    from dhpf.weights.checkpoint import fitting_backbone
    from dhpf.weights.files import read_tensors  # torch: not needed to know the names

    known = released(name)
    if known is None:
        return Path(name) / BEST_MODEL if Path(name).is_dir() else Path(name)
    model, mu = known
    path = cache() / f"{model}-mu{mu}.pt"
    if not path.exists():
        files = sorted([*cache().glob("[!.]*.pt*"), *cache().glob("[!.]*/*.pt*")])
        path = next((file for file in files if is_named(file, model, mu)), path)

    def check(at: Path) -> None:
        belongs = fitting_backbone(at, read_tensors(at))
        if not model.endswith(f"-{belongs}"):
            way_out = ": remove it" if at == path else ""
            raise UserError(f"{at}: a checkpoint of {belongs}, not {name}{way_out}")

    if path.exists():
        check(path)
    elif path.stem in FILES:
        fetch(DRIVE + FILES[path.stem], path, check)
    else:
        raise UserError(
            f"--load {name}: download the model of μ = {mu} by hand from "
            f"https://drive.google.com/drive/folders/{FOLDERS[model]} and save it as {path}"
        )
    return path
