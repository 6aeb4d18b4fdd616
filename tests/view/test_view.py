"""The explorer: what it answers, whom it answers, and the page in a real browser."""

from __future__ import annotations

import html
import http.client
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio

from hsfuse.errors import InputError
from hsfuse.grid import Slice2D
from hsfuse.readers import open_hsi
from hsfuse.simulate.products import SimulatedPair, simulate_pair
from hsfuse.workflows.run import fuse_scene
from hsfuse.workflows.view import server as serving
from hsfuse.workflows.view.layers import Explored
from hsfuse.workflows.view.pictures import levels_of, tile_block
from hsfuse.workflows.view.server import ViewServer

BROWSER = next((found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), "")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SimulatedPair]:
    """A small cube with a confidence layer, and its products where the report says that they are."""
    folder = tmp_path_factory.mktemp("view")
    pair = simulate_pair(folder, size_px=(90, 84), seed=2, shift_m=(60.0, -30.0), s2_bands="10m", pan=False)
    output = folder / "cube.tif"
    fuse_scene(pair.prisma, pair.sentinel2, output, method="glp", bands="24", quality="fast", report=False)
    (folder / "products").mkdir()
    for product in (pair.prisma, pair.sentinel2):
        (folder / "products" / product.name).symlink_to(product)
    return output, pair


@pytest.fixture(scope="module")
def server(made: tuple[Path, SimulatedPair]) -> Iterator[ViewServer]:
    with Explored(made[0]) as explored, ViewServer(explored) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def ask(server: ViewServer, path: str, *, token: str | None = None, host: str = "") -> tuple[int, bytes, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=60)
    headers = {"Host": host} if host else {}
    connection.request("GET", f"/{server.token if token is None else token}/{path}", headers=headers)
    answer = connection.getresponse()
    found = answer.status, answer.read(), answer.headers["Content-Security-Policy"]
    connection.close()
    return found


def test_only_this_computer_with_the_token_is_answered(server: ViewServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    assert len(server.token) >= 32
    code, page, policy = ask(server, "")
    assert code == 200
    assert b"view.js" in page
    assert "default-src 'none'" in policy
    assert ask(server, "", token="x" * 32)[0] == 404
    assert ask(server, "about.json", token="")[0] == 404
    assert ask(server, "", host="evil.example")[0] == 403
    assert ask(server, "", host=f"localhost:{server.server_address[1]}")[0] == 200
    for path in ("../../etc/passwd", "static/view.js", "%2e%2e/x", "tile/fused/0/0/0.jpg", "spectrum.json?row=-1&col=0",
                 "spectrum.json?row=5", "spectrum.json?row=99999&col=0", "tile/nothing/0/0/0.png"):  # fmt: skip
        assert ask(server, path)[0] == 404, path


def test_a_pixel_has_the_spectra_of_all_three_images(server: ViewServer, made: tuple[Path, SimulatedPair]) -> None:
    row, col = 120, 130
    found = json.loads(ask(server, f"spectrum.json?row={row}&col={col}")[1])
    assert [each["layer"] for each in found["series"]] == ["fused", "prisma", "sentinel2"]
    fused, prisma, s2 = found["series"]
    with open_hsi(made[0]) as cube:
        own = cube.read(Slice2D(row, row + 1, col, col + 1))[:, 0, 0]
        np.testing.assert_allclose(fused["nm"], cube.bands.centre_nm, atol=1e-3)
    np.testing.assert_allclose(np.array(fused["reflectance"], float), own, atol=1e-5)
    assert len(prisma["nm"]) > 200
    assert s2["bands"] == ["B02", "B03", "B04", "B08"]
    # The cube is an interpolation of PRISMA: at its wavelengths PRISMA on the same ground is alike.
    near = [int(np.abs(np.array(prisma["nm"]) - nm).argmin()) for nm in fused["nm"]]
    there = np.array(prisma["reflectance"], float)[near]
    assert np.nanmean(np.abs(there - own)) < 0.05
    assert 0.0 <= found["confidence"]["change_probability"] <= 1.0
    assert found["confidence"]["source"] == "fused"
    table = ask(server, f"spectrum.csv?row={row}&col={col}")[1].decode().splitlines()
    assert table[2] == "layer,band,wavelength_nm,fwhm_nm,reflectance"
    assert len(table) == 3 + sum(len(each["nm"]) for each in found["series"])


def test_tiles_cover_the_cube_at_every_level(server: ViewServer, made: tuple[Path, SimulatedPair], tmp_path) -> None:
    about = json.loads(ask(server, "about.json")[1])
    assert about["levels"] == levels_of((about["height"], about["width"]))
    assert [each["name"] for each in about["layers"]] == ["fused", "prisma", "sentinel2"]
    assert about["change"]
    assert about["vectors"]
    for layer in ("fused", "prisma", "sentinel2", "change"):
        for level in range(about["levels"]):
            code, png, _ = ask(server, f"tile/{layer}/{level}/0/0.png?nm=665,560,490")
            assert code == 200
            (tmp_path / "t.png").write_bytes(png)
            with rasterio.open(tmp_path / "t.png") as image:
                block = tile_block(level, 0, 0, (about["height"], about["width"]))
                assert image.shape == tuple(-(-side // 2**level) for side in block.shape)
                assert image.read(4).any() or layer == "change"
    # Sentinel-2 has no band there.
    assert len(ask(server, "tile/sentinel2/0/0/0.png?nm=2200,1610,850")[1]) < 200
    arrows = json.loads(ask(server, "vectors.json")[1])
    assert np.median([each["dx_m"] for each in arrows]) == pytest.approx(60.0, abs=8.0)


def test_products_that_are_not_there_are_said(made: tuple[Path, SimulatedPair], tmp_path: Path) -> None:
    alone = shutil.copy(made[0], tmp_path / "alone.tif")
    with Explored(Path(alone)) as explored:
        assert list(explored.layers) == ["fused"]
        assert any("--hsi" in note for note in explored.notes)
    with Explored(Path(alone), hsi=made[1].prisma, msi=[made[1].sentinel2]) as explored:
        assert list(explored.layers) == ["fused", "prisma", "sentinel2"]
    with pytest.raises(InputError, match="no such file"):
        Explored(Path(alone), hsi=tmp_path / "none.he5")


WIDTHS = (400, 1280)
FRAMES = """<!doctype html><body>{frames}<pre></pre>
<script>
const ready = setInterval(() => {{
  const pages = [...document.querySelectorAll("iframe")].map((frame) => frame.contentDocument);
  const done = (page) => page && page.body && page.body.dataset.ready === "yes" && page.querySelector("polyline");
  if (!pages.every(done)) return;
  clearInterval(ready);
  document.querySelector("pre").textContent = JSON.stringify(pages.map((page) => {{
    const width = page.documentElement.clientWidth;
    const wide = [...page.querySelectorAll("body *")].filter((e) => e.getBoundingClientRect().right > width + 1);
    return {{
      width, page: page.documentElement.scrollWidth, wide: wide.map((e) => e.tagName + e.id).slice(0, 5),
      pixel: page.getElementById("pixel").textContent,
    }};
  }}));
}}, 50);
</script>"""


@pytest.mark.skipif(not BROWSER, reason="needs Chromium")
@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_the_page_fits_and_the_console_is_silent(
    server: ViewServer, tmp_path: Path, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In frames of these widths: windows of a headless Chromium cannot be so narrow."""
    place = "#120,130,prisma"
    frames = (f'<iframe width="{width}" height="900" style="border: 0" src="./{place}"></iframe>' for width in WIDTHS)
    frame = FRAMES.format(frames="".join(frames)).encode()
    read = serving._file
    monkeypatch.setitem(serving._STATIC, "frame", ("frame", "text/html"))
    monkeypatch.setattr(serving, "_file", lambda name: frame if name == "frame" else read(name))
    open_policy = f"{serving._POLICY} 'unsafe-inline'; frame-src 'self'".replace(
        "script-src 'self'", "script-src 'self' 'unsafe-inline'"
    ).replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")
    monkeypatch.setattr(serving, "_POLICY", open_policy)
    dark = ["--force-dark-mode", "--enable-features=WebContentsForceDark"] if scheme == "dark" else []
    shown = subprocess.run(
        [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
         "--window-size=1800,1000", "--virtual-time-budget=9000", "--enable-logging=stderr", "--v=0", "--dump-dom",
         *dark, f"{server.address}frame"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in shown.stderr
    measured = re.search(r"<pre>(.+?)</pre>", shown.stdout, re.DOTALL)
    assert measured is not None, shown.stdout[-2000:]
    for width, found in zip(WIDTHS, json.loads(html.unescape(measured[1])), strict=True):
        assert found["pixel"] == "of row 120, column 130"
        assert found["wide"] == []
        assert width - 20 <= found["width"] <= width, "a scroll bar may take a little"
        assert found["page"] <= found["width"]


@pytest.mark.parametrize("served", [False, True])
def test_ctrl_c_closes_the_explorer(made: tuple[Path, SimulatedPair], served: bool) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "hsfuse", "view", str(made[0]), "--no-browser"], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout is not None
    # From the address on, also before anybody is served.
    assert process.stdout.readline().startswith("http://127.0.0.1:")
    if served:
        assert "Ctrl-C" in process.stdout.readline()
        time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert (process.returncode, out.splitlines()[-1], error) == (0, "closed", "")
