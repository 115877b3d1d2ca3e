"""How the house stands: rooms import downwards, everything has the one name dhpf, options cost no torch."""

import ast
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from dhpf.common import __version__
from tests.helpers.places import ROOT

# From the ground up: a room imports from those before it.
ROOMS = (
    "common",
    "data",
    "model",
    "weights",
    "evaluation",
    "matching",
    "report",
    "training",
    "programs",
)
PROGRAMS = ("train", "test", "match", "search", "compare", "reproduce")
USE = """
import sys, dhpf.programs.testing
from dhpf import Matcher
print(Matcher.__module__, dhpf.__version__, *[n for n in sys.modules if n.split(".")[0] in {rooms}])
import model
print(model.__file__)
"""
HUB = """
import sys, torch
matcher = torch.hub.load({root!r}, "dhpf", backbone="efficientnet_lite0", device="cpu", source="local")
print(matcher, *[n for n in sys.modules if n.split(".")[0] in {rooms}])
import model
print(model.__file__)
"""


def imports(path: Path) -> set[str]:
    """The rooms that a file imports, at any place in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    assert not {name.split(".")[0] for name in names} & set(ROOMS), f"{path}: imports a room without dhpf"
    return {name.split(".")[1] for name in names if name.startswith("dhpf.")} & set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_from_rooms_below_it(room: str) -> None:
    allowed = set(ROOMS[: ROOMS.index(room) + 1]) - ({"data"} if room == "model" else set())
    files = sorted((ROOT / room).glob("**/*.py"))
    assert files
    assert {path.name: imports(path) - allowed for path in files if imports(path) - allowed} == {}


def other_folder(tmp_path: Path) -> Path:
    """A folder with a package `model` of its own."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "__init__.py").write_text("own = True\n")
    return tmp_path


def use(folder: Path, *places: Path, program: str = USE) -> list[str]:
    """What a program in `folder` sees of dhpf, found in `places`."""
    command = [sys.executable, "-c", program.format(rooms=ROOMS, root=str(ROOT))]
    path = ":".join(map(str, (folder, *places)))
    environment = os.environ | {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_a_clone_is_used_beside_another_package_of_the_name_of_a_room(tmp_path: Path) -> None:
    folder = other_folder(tmp_path)
    assert use(folder, ROOT) == [f"dhpf.matching.matcher {__version__}", f"{folder}/model/__init__.py"]


def test_torch_hub_gives_a_matcher_beside_another_package_of_the_name_of_a_room(tmp_path: Path) -> None:
    folder = other_folder(tmp_path)
    matcher, other = use(folder, program=HUB)
    assert matcher.startswith("efficientnet_lite0, raw features: nothing here was learned")
    assert matcher.endswith("Hough matching")
    assert other == f"{folder}/model/__init__.py"


@pytest.mark.parametrize(
    "module", [*(f"programs.{name}" for name in PROGRAMS), "data.verify", "data.download"]
)
def test_every_command_says_its_version(
    module: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["command", "--version"])
    with pytest.raises(SystemExit) as end:
        import_module(f"dhpf.{module}").main()
    assert (end.value.code, capsys.readouterr().out) == (0, f"DHPF {__version__}\n")


def test_the_wheel_gives_the_same_names_and_the_commands(tmp_path: Path) -> None:
    source = tmp_path / "source"  # builds leave files behind
    files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True)
    if files.returncode:
        pytest.skip("no clone: the wheel is built from the files that git knows")
    for name in files.stdout.decode().split("\n"):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheel = subprocess.run(
        [*pip, "wheel", "--no-deps", "-w", str(tmp_path), str(source)], capture_output=True, text=True
    )
    if wheel.returncode and "setuptools" in wheel.stderr and "requires" not in wheel.stderr:
        pytest.skip("setuptools cannot be had here, which building the wheel needs")
    assert wheel.returncode == 0, wheel.stderr
    (built,) = tmp_path.glob("dhpf-*.whl")
    installed = tmp_path / "installed"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(installed), str(built)], check=True)

    folder = other_folder(tmp_path)
    assert use(folder, installed)[0] == f"dhpf.matching.matcher {__version__}"
    for name in PROGRAMS:
        command = [sys.executable, installed / "bin" / f"dhpf-{name}", "--help"]
        environment = os.environ | {"PYTHONPATH": str(installed)}
        shown = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=True
        )
        assert shown.stdout.startswith(f"usage: dhpf-{name}")
    for name in ("page.html", "explorer.html", "explorer.js"):
        assert (installed / "dhpf" / "report" / name).is_file()
    assert (installed / "dhpf" / "programs" / "published.json").is_file()


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        *((program, "--nonsense 1") for program in PROGRAMS),
        ("train", "--device tpu"),
        ("train", "--niter 0"),
        ("test", "--load dhpf:spair-strong-resnet50"),
        ("test", "--load nowhere.pt"),
        ("match", "nowhere.jpg nowhere.png"),
    ],
)
def test_options_are_answered_without_importing_torch(program: str, arguments: str) -> None:
    script = f"""
import sys
sys.argv = ["{program}.py", *"{arguments}".split()]
from dhpf.programs.{program} import main
try:
    main()
except SystemExit as end:
    slow = [n for n in ("torch", "pandas", "numpy", "matplotlib", "scipy") if n in sys.modules]
    print(end.code, slow)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "2 []\n", done


def test_help_groups_options_and_shows_real_defaults_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    groups = {
        "train": ("training", "data", "model", "output"),
        "test": ("testing", "data", "load", "model", "ablation", "output"),
        "match": ("images", "pair", "benchmark", "load", "model", "ablation"),
        "search": ("searching", "benchmark", "data", "load", "model", "output"),
        "compare": ("runs", "data"),
        "reproduce": ("reproduce",),
    }
    for program, titles in groups.items():
        with pytest.raises(SystemExit):
            import_module(f"dhpf.programs.{program}").main(["--help"])
        shown = capsys.readouterr().out
        assert [f"\n{title}:\n" in shown for title in titles] == [True] * len(titles), shown
        assert "None" not in shown
        assert shown.rstrip().split("examples:")[1].count(f"python {program}.py") == 2
