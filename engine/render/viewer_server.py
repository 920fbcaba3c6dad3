"""The server of `viewer.html`, for this machine alone: `demo.py --view`, `ContinuousImage.view`."""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
import webbrowser
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

import numpy as np

from datasets.images import Photo, read_photo
from datasets.transparency import fill_hidden
from engine.render.continuous_image import ContinuousImage
from engine.render.pixels import whole_numbers
from engine.render.viewer import CACHE_BYTES, Shown, View, Viewer
from engine.runtime import say
from utils import ConfigError, UserError

PAGE = Path(__file__).with_name("viewer.html")
LARGEST_UPLOAD = 1 << 28  # bytes
PIECE = 1 << 20  # bytes of an upload that are in memory at once


class Handler(BaseHTTPRequestHandler):
    """Answers pages; a mistake in a request gets one line. `viewer` is set by `make_server`."""

    protocol_version = "HTTP/1.1"
    viewer: Viewer
    timeout = 60

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError):  # the page has gone on
            super().handle()

    def log_message(self, *_: Any) -> None:
        """Keep the terminal free of a line for every request."""

    def start(self, kind: str, length: int, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()

    def answer(self, body: bytes, kind: str, status: int = 200) -> None:
        self.start(kind, len(body), status)
        self.wfile.write(body)

    def refuse(self, message: str, status: int = 400) -> None:
        self.close_connection = True  # a body that was not read would be taken for a request
        self.answer(message.encode(), "text/plain; charset=utf-8", status)

    def from_this_machine(self) -> bool:
        """Whether the page is ours: a foreign name for this address would be another site's."""
        hosts = {f"{name}:{self.server.server_address[1]}" for name in ("127.0.0.1", "localhost")}  # type: ignore[index]
        origin = self.headers.get("Origin")
        return self.headers.get("Host") in hosts and (
            origin is None or origin.removeprefix("http://") in hosts
        )

    def carefully(self, answer: Callable[[], None]) -> None:
        if not self.from_this_machine():
            self.refuse("only for this machine", 403)
            return
        try:
            answer()
        except UserError as error:
            self.refuse(str(error))

    def do_GET(self) -> None:
        self.carefully(self.get)

    def do_POST(self) -> None:
        self.carefully(self.upload)

    def address(self) -> SplitResult:
        try:
            return urlsplit(self.path)
        except ValueError as error:
            raise ConfigError(f"no address ({error})") from None

    def get(self) -> None:
        address = self.address()
        query = {key: values[-1] for key, values in parse_qs(address.query).items()}
        photo = query.get("photo", "first")
        if address.path == "/":
            self.answer(PAGE.read_bytes(), "text/html; charset=utf-8")
        elif address.path == "/describe":
            self.answer(json.dumps(self.viewer.describe(photo)).encode(), "application/json")
        elif address.path == "/preview":
            self.answer(self.viewer.shown(photo).preview, "image/png")
        elif address.path == "/view":
            self.send_view(View.of(query))
        else:
            self.refuse("no such page", 404)

    def send_view(self, view: View) -> None:
        """Send RGB rows as they are done; a view that is given up ends with its connection."""
        stripes = self.viewer.stripes(view)
        first = next(stripes, None)
        if first is None:
            self.refuse("given up", 409)
            return
        self.start("application/octet-stream", 3 * view.height * view.width)
        sent = self.wfile.write(first.tobytes())
        for stripe in stripes:
            sent += self.wfile.write(stripe.tobytes())
        if sent < 3 * view.height * view.width:
            self.close_connection = True

    def upload(self) -> None:
        """Take a photograph; no name is asked for, and none is looked at."""
        length = self.headers.get("Content-Length", "")
        if self.address().path != "/photo" or not (length.isascii() and length.isdecimal()):
            self.refuse("no such page", 404)
        elif len(length) > 12 or int(length) > LARGEST_UPLOAD:
            self.refuse(f"{length[:12]} bytes given; allowed: up to {LARGEST_UPLOAD}", 413)
        else:
            name = self.viewer.add(Shown(fill_hidden(self.received(int(length)).pixels)))
            self.answer(json.dumps({"photo": name}).encode(), "application/json")

    def received(self, length: int) -> Photo:
        """The photograph in a body of so many bytes."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "upload"
            with path.open("wb") as file:
                while length and (piece := self.rfile.read(min(PIECE, length))):
                    file.write(piece)
                    length -= len(piece)
            try:
                return read_photo(path, self.viewer.max_pixels, "--max-pixels")
            except UserError as error:
                raise type(error)(str(error).replace(str(path), "upload")) from None


def make_server(viewer: Viewer, port: int = 0) -> ThreadingHTTPServer:
    """A server on 127.0.0.1 that is yet to run; port 0 for any that is free.

    Raises:
        ConfigError: the port can't be had.
    """
    handler = type("ViewerHandler", (Handler,), {"viewer": viewer})
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or "no such port"
        raise ConfigError(f"--port: {port} given ({reason}); allowed: a free one") from None
    server.daemon_threads = True
    return server


def address_of(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/"


def serve(viewer: Viewer, port: int = 0, browser: bool = True) -> None:
    """Show the page until Ctrl-C; errors as for `make_server`."""
    with make_server(viewer, port) as server:
        say(f"{address_of(server)} shows the photograph; Ctrl-C ends it")
        if browser:  # some browsers return only when they are closed
            threading.Thread(
                target=webbrowser.open, args=(address_of(server),), daemon=True
            ).start()
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


def start_page(image: ContinuousImage, browser: bool = True) -> str:
    """`ContinuousImage.view`: serve a page of it from a thread, and return the page's address."""
    if image.photo is None:
        raise ConfigError("view: the photograph is needed, which representations in files lack")

    def represent(pixels: np.ndarray) -> ContinuousImage:
        return ContinuousImage.represent(
            pixels,
            image.model,
            precision=image.precision,
            keep_features=False,
            data_norm=image.norm,
            cell_max_scale=image.cell_max_scale,
            window=image.window,
            statistic=image.statistic,
            cache_bytes=CACHE_BYTES,
        )

    pixels = whole_numbers(image.photo.pixels)
    name = image.spec["name"] if image.spec else type(image.model).__name__
    viewer = Viewer({name: represent})
    viewer.add(Shown(pixels, images={name: image}))
    server = make_server(viewer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    if browser:
        webbrowser.open(address_of(server))
    return address_of(server)


def check_reference(pixels: np.ndarray, reference: np.ndarray) -> None:
    """Raises ConfigError for a reference of another shape than the photograph's."""
    (height, width), (tall, wide) = pixels.shape[:2], reference.shape[:2]
    if abs(tall * width - wide * height) > max(tall, wide) * max(1.0, 0.01 * min(height, width)):
        raise ConfigError(
            f"--reference: {tall}x{wide} pixels given for a photograph of {height}x{width}; "
            "allowed: the same scene in the same shape"
        )
