"""Reports in a real browser: nothing wider than the page, no message on the console. Skipped without Chromium."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from test_report import comparison, full_report

from hsfuse.qa.batch_report import SceneRow, write_batch_report
from hsfuse.qa.compare_report import write_compare_report
from hsfuse.qa.report import write_report

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
pytestmark = pytest.mark.skipif(not BROWSER, reason="needs Chromium")

MEASURE = """<script>
addEventListener("load", () => {
  const width = document.documentElement.clientWidth;
  const inside = (element) => { for (let e = element; e; e = e.parentElement)
    if (getComputedStyle(e).overflowX === "auto") return true; return false; };
  const wide = [...document.querySelectorAll("main *")].filter((e) => !inside(e)
    && e.getBoundingClientRect().right > width + 1).map((e) => e.tagName + "." + e.className);
  parent.postMessage({ page: document.documentElement.scrollWidth, width, wide: wide.slice(0, 5) }, "*");
});
</script>"""
FRAME = """<body><iframe src="page.html" style="width: {width}px; height: 900px; border: 0"></iframe><pre></pre><script>
addEventListener("message", (event) => {{ document.querySelector("pre").textContent = JSON.stringify(event.data); }});
</script>"""


def browse(page: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
         "--virtual-time-budget=3000", *options, page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip


def _batch(path: Path) -> Path:
    long = "PRS_L2D_STD_20240621103012_20240621103016_0001"
    rows = [
        SceneRow(long, "done", verdict="usable with care", msi=f"S2A_{long}", days_apart=2.0, qnr=0.91, seconds=61.0,
                 coregistration_rmse_m=0.4, change_share=0.02, output="a.tif", report="a.html", log="a.log"),
        SceneRow("b", "failed", reason="No trustworthy alignment was found, for the images have no pattern in common."),
    ]  # fmt: skip
    return write_batch_report(path, "A folder", rows, facts={"Folder": f"/data/{long}/{long}", "Scenes": 2})


@pytest.fixture(scope="module", params=["run", "compare", "batch"])
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "r.html"
    if request.param == "batch":
        return _batch(path)
    return write_report(path, full_report()) if request.param == "run" else write_compare_report(path, comparison())


@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_is_wider_than_the_page(report: Path, tmp_path: Path, width: int) -> None:
    text = re.sub(r"<meta http-equiv=.Content-Security-Policy[^>]*>", "", report.read_text(encoding="utf-8"))
    (tmp_path / "page.html").write_text(text.replace("</body>", f"{MEASURE}</body>"), encoding="utf-8")
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.format(width=width), encoding="utf-8")
    shown = re.search(r"<pre>(.*?)</pre>", browse(frame, tmp_path, "--dump-dom").stdout, re.DOTALL)
    found = json.loads(html.unescape(shown.group(1)))
    assert found["wide"] == []
    assert found["page"] <= found["width"] <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_console_is_silent(report: Path, tmp_path: Path, scheme: str) -> None:
    dark = ["--force-dark-mode", "--enable-features=WebContentsForceDark"] if scheme == "dark" else []
    shown = browse(report, tmp_path, "--enable-logging=stderr", "--v=0", "--dump-dom", *dark)
    assert "CONSOLE" not in shown.stderr
    # The script has run: three pictures of one place became a swipe.
    assert ('class="swipe"' in shown.stdout) is ('class="photos crisp" data-swipe' in shown.stdout)
