"""The explorer's server: this computer only, behind a random token, nothing but reading.

Whoever else is logged in on the machine can reach the port, so an address without the token gets nothing; names of
other hosts get nothing, so that a page of the internet cannot look in through the browser (DNS rebinding).
"""

from __future__ import annotations

import contextlib
import hmac
import json
import re
import secrets
import threading
from collections.abc import Callable
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import parse_qs, urlsplit

from hsfuse.errors import HsfuseError, UsageError
from hsfuse.log import get_logger
from hsfuse.qa.quicklook import COMPOSITES, Limits
from hsfuse.workflows.view.layers import Explored, Layer
from hsfuse.workflows.view.pictures import (
    TILE_PX,
    change_tile,
    colour_tile,
    empty_tile,
    levels_of,
    limits_of,
    tile_block,
)
from hsfuse.workflows.view.spectrum import spectrum, spectrum_csv, vectors

_log = get_logger(__name__)

HOST = "127.0.0.1"
_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'"
_STATIC = {
    "": ("page.html", "text/html"), "view.js": ("view.js", "text/javascript"), "view.css": ("view.css", "text/css"),
}  # fmt: skip
_TILE = re.compile(r"tile/([a-z0-9]+)/(\d{1,2})/(\d{1,4})/(\d{1,4})\.png")
_KEPT_TILES = 512


class Explorer:
    """Answers to the page's questions.

    Parameters
    ----------
    explored
        What is shown.
    """

    def __init__(self, explored: Explored) -> None:
        self._explored = explored
        self._limits = lru_cache(maxsize=64)(self._limits_at)
        self.tile = lru_cache(maxsize=_KEPT_TILES)(self._tile)
        self._ahead = threading.Thread(target=self._warm, name="hsfuse-view", daemon=True)
        self._ahead.start()

    def _warm(self) -> None:
        """Begin with what the page will ask for first, while the browser starts."""
        empty_tile()
        with contextlib.suppress(HsfuseError, OSError):
            nm = tuple(float(each) for each in self.about()["composites"][0]["nm"])
            self.tile("fused", levels_of(self._explored.grid.shape) - 1, 0, 0, nm)
            self._explored.read_ahead()

    def close(self) -> None:
        """Wait for what reads ahead: files are closed afterwards."""
        self._ahead.join()

    def about(self) -> dict[str, Any]:
        """What the page needs to know before it draws."""
        explored = self._explored
        centre = explored.bands.centre_nm
        height, width = explored.grid.shape
        composites = [
            {"key": each.key, "title": each.title, "nm": each.wanted_nm}
            for each in COMPOSITES
            if explored.cube.bands_at(each.wanted_nm) is not None
        ]
        first = [float(centre[i]) for i in (-1, len(centre) // 2, 0)]
        error = explored.origin.coregistration.get("rmse_m")
        named = zip(explored.bands.names(), centre, strict=True)
        return {
            "name": explored.path.name, "height": height, "width": width, "pixel_m": explored.grid.pixel_m,
            "crs": explored.grid.crs.to_string(), "tile": TILE_PX, "levels": levels_of((height, width)),
            "bands": [{"name": name, "nm": round(float(nm), 2)} for name, nm in named],
            "composites": composites or [{"key": "spread", "title": "Spread bands", "nm": first}],
            "layers": [{"name": each.name, "title": each.title} for each in explored.layers.values()],
            "change": explored.confidence is not None, "vectors": explored.origin.field is not None,
            "method": explored.origin.method, "coregistration_rmse_m": error, "notes": explored.notes,
        }  # fmt: skip

    def answer(self, path: str, query: dict[str, list[str]]) -> tuple[str, bytes]:
        """Media type and content for an address.

        Raises
        ------
        UsageError
            There is nothing of that name.
        """
        if path in _STATIC:
            name, kind = _STATIC[path]
            return f"{kind}; charset=utf-8", _file(name)
        tile = _TILE.fullmatch(path)
        if tile is not None:
            level, row, col = (int(text) for text in tile.groups()[1:])
            return "image/png", self.tile(tile[1], level, row, col, _wavelengths(query))
        answers: dict[str, Callable[[], Any]] = {
            "about.json": self.about,
            "vectors.json": lambda: vectors(self._explored),
            "spectrum.json": lambda: self._spectrum(query),
        }
        if path in answers:
            return "application/json", json.dumps(answers[path](), allow_nan=False).encode("utf-8")
        if path == "spectrum.csv":
            text = spectrum_csv(self._spectrum(query), self._explored.path.name)
            return "text/csv; charset=utf-8", text.encode("utf-8")
        raise UsageError("There is nothing of that name.")

    def _spectrum(self, query: dict[str, list[str]]) -> dict[str, Any]:
        wanted = query["layers"][0].split(",") if "layers" in query else None
        row, col = (int(_one(query, name)) for name in ("row", "col"))
        return spectrum(self._explored, row, col, wanted)

    def _tile(self, name: str, level: int, row: int, col: int, nm: tuple[float, ...]) -> bytes:
        explored = self._explored
        block = tile_block(min(level, 16), row, col, explored.grid.shape)
        if min(block.shape) < 1:
            return empty_tile()
        if name == "change" and explored.confidence is not None:
            return change_tile(explored.confidence, block, level)
        layer = explored.layers.get(name)
        if layer is None:
            raise UsageError(f"There is no layer '{name}'.")
        bands = layer.bands_at(nm)
        return empty_tile() if bands is None else colour_tile(layer, bands, block, level, self._limits(layer.name, nm))

    def _limits_at(self, name: str, nm: tuple[float, ...]) -> Limits:
        """Contrast of the fused cube for all layers, so that they can be compared; their own where it lacks a band."""
        for layer in (self._explored.cube, self._explored.layers[name]):
            bands = layer.bands_at(nm)
            if bands is not None:
                return limits_of(layer, bands)
        return ((0.0, 1.0),) * len(nm)


def _file(name: str) -> bytes:
    return resources.files("hsfuse.workflows.view").joinpath("static", name).read_bytes()


def _one(query: dict[str, list[str]], name: str) -> str:
    values = query.get(name, [])
    if len(values) != 1 or not re.fullmatch(r"\d{1,6}", values[0]):
        raise UsageError(f"{name} must be a whole number.")
    return values[0]


def _wavelengths(query: dict[str, list[str]]) -> tuple[float, ...]:
    try:
        found = tuple(float(text) for text in query.get("nm", [""])[0].split(","))
    except ValueError:
        found = ()
    return found if len(found) == 3 else (665.0, 560.0, 490.0)


class ViewServer(ThreadingHTTPServer):
    """Serves one cube to this computer.

    Parameters
    ----------
    explored
        What is shown.
    port
        Port; 0 takes a free one.
    """

    daemon_threads = True

    def __init__(self, explored: Explored, port: int = 0) -> None:
        self.token = secrets.token_urlsafe(24)
        self.explorer = Explorer(explored)
        super().__init__((HOST, port), _Handler)

    @property
    def address(self) -> str:
        """What to open in the browser."""
        return f"http://{HOST}:{self.server_address[1]}/{self.token}/"

    def server_close(self) -> None:
        """Give the port back."""
        super().server_close()
        self.explorer.close()

    def knows(self, host: str) -> bool:
        """Whether a ``Host`` header names this server."""
        return host in (f"{name}:{self.server_address[1]}" for name in (HOST, "localhost"))


class _Handler(BaseHTTPRequestHandler):
    server: ViewServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "hsfuse", ""
    timeout = 60

    def do_GET(self) -> None:
        """Answer, or say what is wrong."""
        address = urlsplit(self.path)
        token, _, rest = address.path.removeprefix("/").partition("/")
        if not self.server.knows(self.headers.get("Host", "")):
            self._send(403, "text/plain", b"This address is for this computer only.")
        elif not hmac.compare_digest(token.encode("utf-8"), self.server.token.encode("utf-8")):
            self._send(404, "text/plain", b"Not found.")
        else:
            try:
                kind, content = self.server.explorer.answer(rest, parse_qs(address.query))
                self._send(200, kind, content)
            except UsageError as error:
                self._send(404, "text/plain; charset=utf-8", error.message.encode("utf-8"))
            except (HsfuseError, OSError) as error:
                _log.warning("%s", error)
                self._send(500, "text/plain; charset=utf-8", str(error).encode("utf-8"))

    def _send(self, code: int, kind: str, content: bytes) -> None:
        self.send_response(code)
        for name, value in (
            ("Content-Type", kind), ("Content-Length", str(len(content))), ("Content-Security-Policy", _POLICY),
            ("X-Content-Type-Options", "nosniff"), ("Referrer-Policy", "no-referrer"),
            ("Cross-Origin-Resource-Policy", "same-origin"), ("X-Frame-Options", "SAMEORIGIN"),
            ("Cache-Control", "private, max-age=3600" if kind == "image/png" else "no-store"),
        ):  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Requests are no news; the token stays out of logs."""


__all__ = ["HOST", "Explorer", "Layer", "ViewServer"]
