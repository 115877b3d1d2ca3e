"""The programs: `options.py` has the options of all, each other file is one program."""

from collections.abc import Sequence
from importlib import import_module

from dhpf.common.program import well_ended
from dhpf.programs import options

SEVERAL_PROCESSES = ("train", "test")  # programs that torchrun may start several times


def run_program(name: str, arguments: Sequence[str] | None = None) -> None:
    """Run a program with `arguments`, or those of the process.

    Options are parsed before the program's file is imported: only that needs torch.
    """
    with well_ended(several_processes=name in SEVERAL_PROCESSES):
        parsed = options.parse(name, arguments)
        import_module(f"dhpf.programs.{name}").run(parsed)
