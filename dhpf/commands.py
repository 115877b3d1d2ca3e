"""The commands by name, as the scripts of a clone call them, and `dhpf-train` and others of an installed package."""

from dhpf.programs import run_program


def train() -> None:
    run_program("train")


def test() -> None:
    run_program("test")


def match() -> None:
    run_program("match")


def search() -> None:
    run_program("search")


def compare() -> None:
    run_program("compare")


def reproduce() -> None:
    run_program("reproduce")
