"""Pages in Chromium, where it is there: what its document holds when its scripts have run."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.places import ROOT

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
AXE = ROOT / ".axe" / "node_modules" / "axe-core" / "axe.min.js"
OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --virtual-time-budget=60000"
)


def needs_chromium(test: Callable[..., None]) -> Callable[..., None]:
    """A slow test, which skips where there is no Chromium."""
    return pytest.mark.slow(pytest.mark.skipif(not PROGRAM, reason="no Chromium, see CONTRIBUTING.md")(test))


def needs_axe(test: Callable[..., None]) -> Callable[..., None]:
    """A slow test, which skips where there is no Chromium or no axe-core."""
    there = PROGRAM and AXE.exists()
    return pytest.mark.slow(pytest.mark.skipif(not there, reason="no axe-core, see CONTRIBUTING.md")(test))


# One page a frame; each tells what axe found, and what its own errors were, when it has been looked at.
OUTER = """<!DOCTYPE html><title>frames</title><body><script>
const pages = PAGES, found = {};
addEventListener("message", ({data}) => {
  found[data.name] = data.found;
  if (Object.keys(found).length === Object.keys(pages).length) {
    const result = document.createElement("script");
    result.type = "application/json";
    result.textContent = JSON.stringify(found).replaceAll("<", "\\\\u003c");
    document.body.replaceChildren(result);
  }
});
for (const [name, [width, source]] of Object.entries(pages)) {
  const frame = document.createElement("iframe");
  Object.assign(frame, {title: name, width, height: 900, srcdoc: source});
  document.body.append(frame);
}
</script>"""
INNER = """<script>addEventListener("error", (event) => (window.wrong = event.message));</script>
<script>AXE</script><script>
addEventListener("load", () => setTimeout(() => {
  const tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
  axe.run({runOnly: tags}).then(({violations, passes}) => parent.postMessage({name: NAME, found: {
    wrong: window.wrong || null,
    wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    passed: passes.map(({id}) => id),
    violations: violations.map(({id, nodes}) => `${id}: ${nodes.map(({html, failureSummary}) =>
      `${html.slice(0, 300)} ${failureSummary}`).join(" | ")}`)}}, "*"));
}));
</script>"""


def dump(address: str) -> str:
    """The document of an address after its scripts have run."""
    done = subprocess.run(
        [PROGRAM, *OPTIONS.split(), "--dump-dom", address], capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return done.stdout.decode()


def looked_at(folder: Path, pages: dict[str, tuple[int, str, str]]) -> dict[str, dict[str, Any]]:
    """What axe-core finds in pages, by name: given their width in pixels, 'light', 'dark' or 'print', and their source.

    All are looked at in one Chromium: it takes seconds to start. The policy would refuse the checker and is left out.
    """
    axe, framed = AXE.read_text(), {}
    for name, (width, scheme, html) in pages.items():
        html = html.replace('http-equiv="Content-Security-Policy"', 'name="policy"')
        for media in ("(prefers-color-scheme: dark)", "print"):
            wanted = scheme == "dark" if "dark" in media else scheme == "print"
            html = html.replace(f"@media {media}", f"@media {'all' if wanted else 'not all'}")
        check = INNER.replace("NAME", json.dumps(name)).replace("AXE", axe)
        framed[name] = (width, html.replace("<title>", check + "<title>", 1))
    outer = folder / "frames.html"
    data = json.dumps(framed).replace("<", "\\u003c")
    outer.write_text(OUTER.replace("PAGES", data))
    text = dump(outer.as_uri()).partition('<script type="application/json">')[2].partition("</script>")[0]
    return json.loads(text)
