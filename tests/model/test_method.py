"""docs/method.md and the code name each other: functions that are there, sections that are there."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.helpers.places import ROOT

METHOD = (ROOT / "docs" / "method.md").read_text()
SECTIONS = dict(re.findall(r"^## (\d)\. .*\n((?:(?!## ).*\n)*)", METHOD, re.M))


def defined(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
    """Functions, classes and variables of a module, and `Class.name` of what is in its classes."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield prefix + node.name
        if isinstance(node, ast.ClassDef):
            yield from defined(node.body, f"{prefix}{node.name}.")
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (prefix + target.id for target in targets if isinstance(target, ast.Name))


@pytest.mark.parametrize("number", SECTIONS)
def test_a_section_names_what_computes_it(number: str) -> None:
    references = re.findall(r"`([^`]*\.py)(?:: ([^`]*))?`", SECTIONS[number])
    assert any(names for _, names in references)
    for path, names in references:
        assert (ROOT / path).is_file(), path
        missing = set(names.split(", ")) - set(defined(ast.parse((ROOT / path).read_text()).body)) - {""}
        assert not missing, path
