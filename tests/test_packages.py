"""The packages: they import downwards, have the one name dhpf, and answer options without torch."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.places import ROOT

# From the ground up: a package imports from those before it, and model not from data.
PACKAGES = "common", "data", "model", "weights", "evaluation", "matching", "report", "training", "programs"
PROGRAMS = "train", "test", "match", "search", "compare", "reproduce"
HEAVY = {"torch", "pandas", "numpy", "matplotlib", "scipy"}


def imports(path: Path) -> set[str]:
    """The packages that a file imports, at any place in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    assert not {name.split(".")[0] for name in names} & set(PACKAGES), f"{path}: a package without dhpf"
    return {name.split(".")[1] for name in names if name.startswith("dhpf.")} & set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_from_packages_below_it(package: str) -> None:
    allowed = set(PACKAGES[: PACKAGES.index(package) + 1]) - ({"data"} if package == "model" else set())
    files = sorted((ROOT / package).glob("**/*.py"))
    assert files
    assert {path.name: imports(path) - allowed for path in files if imports(path) - allowed} == {}


def python(
    folder: Path, *arguments: str | Path, path: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    """Python in a folder, which finds dhpf in `path`."""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": f"{folder}:{path or ''}"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def with_own_model(folder: Path) -> Path:
    """The folder of a user, with a package `model` of its own."""
    (folder / "user" / "model").mkdir(parents=True)
    (folder / "user" / "model" / "__init__.py").write_text("")
    return folder / "user"


USE = """
import sys, model, {name}
print({name}.__file__, model.__file__, [name for name in sys.modules if name.split(".")[0] in {packages}])
"""


def assert_found(name: str, folder: Path, file: Path, path: Path) -> None:
    """The module lies in a file; beside it the user's own `model` is imported, and no package without `dhpf`."""
    own = with_own_model(folder)
    done = python(own, "-c", USE.format(name=name, packages=set(PACKAGES)), path=path)
    assert done.stdout == f"{file} {own}/model/__init__.py ['model']\n", done.stderr


def test_a_clone_is_used_beside_another_package_of_the_name_of_a_package(tmp_path: Path) -> None:
    assert_found("dhpf.model", tmp_path, ROOT / "dhpf" / "model" / "__init__.py", ROOT)


def test_a_clone_without_links_is_used(tmp_path: Path) -> None:
    """As Windows makes it where links are not allowed."""
    clone = tmp_path / "clone"
    (clone / "dhpf").mkdir(parents=True)
    for file in (ROOT / "dhpf").glob("*.py"):
        shutil.copy(file, clone / "dhpf")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, clone / package)
        (clone / "dhpf" / package).write_text(f"../{package}")  # what git writes instead of a link
    assert_found("dhpf.model", tmp_path, clone / "model" / "__init__.py", clone)


PIP = "-m", "pip", "--quiet", "--disable-pip-version-check"


def copied_clone(folder: Path) -> Path:
    """The files that git knows, and links: builds leave files behind."""
    files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True)
    if files.returncode:
        pytest.skip("no clone: what is installed is built from the files that git knows")
    for name in files.stdout.decode().split("\n"):
        if (ROOT / name).is_symlink() or (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name, follow_symlinks=False)
    return folder


@pytest.mark.slow
def test_a_script_beside_a_clone_called_dhpf_uses_what_is_installed_of_it(tmp_path: Path) -> None:
    clone, installed = copied_clone(tmp_path / "dhpf"), tmp_path / "installed"
    options = "--no-deps", "--no-build-isolation", "--target", installed
    done = python(tmp_path, *PIP, "install", *options, "-e", clone)
    assert done.returncode == 0, done.stderr
    script = f"import site; site.addsitedir({str(installed)!r}); from dhpf import Matcher, model; print(model.__file__)"
    (tmp_path / "mine.py").write_text(script)
    done = python(tmp_path, "mine.py")
    assert Path(done.stdout.strip()).resolve() == clone / "model" / "__init__.py", done.stderr


@pytest.mark.slow
def test_the_wheel_has_all_packages_files_and_commands(tmp_path: Path) -> None:
    source = copied_clone(tmp_path / "source")
    wheel = python(tmp_path, *PIP, "wheel", "--no-deps", "-w", tmp_path, source)
    if wheel.returncode and "setuptools" in wheel.stderr and "requires" not in wheel.stderr:
        pytest.skip("setuptools cannot be had here, which building the wheel needs")
    assert wheel.returncode == 0, wheel.stderr
    (built,) = tmp_path.glob("dhpf-*.whl")
    installed = tmp_path / "installed"
    assert python(tmp_path, *PIP, "install", "--no-deps", "--target", installed, built).returncode == 0

    files = ["report/page.html", "report/explorer.html", "report/explorer.js", "programs/published.json"]
    files += [f"{package}/__init__.py" for package in PACKAGES]
    assert [name for name in files if not (installed / "dhpf" / name).is_file()] == []
    assert_found("dhpf.matching.matcher", tmp_path, installed / "dhpf" / "matching" / "matcher.py", installed)
    assert (
        "No module named 'dhpf.numpy'" in python(tmp_path, "-c", "import dhpf.numpy", path=installed).stderr
    )
    for name in PROGRAMS:
        shown = python(tmp_path, installed / "bin" / f"dhpf-{name}", "--help", path=installed)
        assert shown.stdout.startswith(f"usage: dhpf-{name}"), shown.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        *((f"{program}.py --help", 0) for program in PROGRAMS),
        ("train.py --nonsense 1", 2),
        ("test.py --load nowhere.pt", 2),
        ("match.py nowhere.jpg nowhere.png", 2),
    ],
)
def test_options_are_answered_without_importing_torch(arguments: str, code: int, tmp_path: Path) -> None:
    program, *rest = arguments.split()
    done = python(tmp_path, "-X", "importtime", ROOT / program, *rest)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert (done.returncode, imported & HEAVY) == (code, set())
    assert "argparse" in imported
