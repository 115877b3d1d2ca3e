"""Pages in Chromium, where it is there: what its document holds when its scripts have run."""

import shutil
import subprocess
from collections.abc import Callable

import pytest

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --virtual-time-budget=60000"
)


def needs_chromium(test: Callable[..., None]) -> Callable[..., None]:
    """A slow test, which skips where there is no Chromium."""
    return pytest.mark.slow(pytest.mark.skipif(not PROGRAM, reason="no Chromium, see CONTRIBUTING.md")(test))


def dump(address: str) -> str:
    """The document of an address after its scripts have run."""
    done = subprocess.run(
        [PROGRAM, *OPTIONS.split(), "--dump-dom", address], capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return done.stdout.decode()
