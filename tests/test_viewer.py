"""The viewer: its server over plain HTTP, its page in headless Chromium."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
import torch
from PIL import Image

import demo
from engine.render import ContinuousImage, features, viewer, viewer_server
from engine.render.baselines import Resized
from engine.render.resampling import resample_rows
from engine.render.tiling import Grid
from engine.render.viewer import HeldCell, Shown, View, Viewer
from engine.render.viewer_server import address_of, make_server
from tests.browser import NoBrowser, chromium, pixels_of, wait_sharp
from tests.small import photograph, save_model, small_model
from utils import ConfigError

PHOTO = photograph(64, 96)
TRUTH = photograph(128, 192)
MODEL = small_model()


def represent(pixels: np.ndarray) -> ContinuousImage:
    return ContinuousImage.represent(pixels, MODEL, keep_features=False, cache_bytes=1 << 20)


def make_viewer(**shown: Any) -> Viewer:
    made = Viewer({"tiny": represent}, max_pixels=100_000)
    made.add(Shown(PHOTO, **shown))
    return made


@contextlib.contextmanager
def serving(shown: Viewer) -> Iterator[str]:
    """HOST:PORT of a running server."""
    with make_server(shown) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield address_of(server)[7:-1]
        server.shutdown()


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    with serving(make_viewer(reference=TRUTH)) as address:
        yield address


def ask(
    host: str, path: str, method: str = "GET", body: bytes | None = None, **headers: str
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(host, timeout=60)
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    answer = response.status, response.read()
    connection.close()
    return answer


def view_path(**changes: Any) -> str:
    query = {"photo": "first", "method": "tiny", "box": "0,0,64,96", "height": 20, "width": 30}
    return "/view?" + urlencode({**query, **changes})


def rendered(height: int, width: int, box: Any, image: ContinuousImage | None = None) -> np.ndarray:
    """`ContinuousImage.render` in levels, (height, width, 3)."""
    colours = (image or ContinuousImage.represent(PHOTO, MODEL)).render(height, width, box)
    return (colours.permute(1, 2, 0) * 255).round().numpy().astype(int)


def whole_view(shown: Viewer, **changes: Any) -> np.ndarray:
    given = {"photo": "first", "method": "tiny", "box": (0, 0, 64, 96), "height": 20, "width": 30}
    return np.concatenate([*shown.stripes(View(**{**given, **changes}))]).astype(int)


@pytest.mark.parametrize("scale", [3, 7.31, 250])
def test_stripes_are_what_render_gives(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where features come in blocks that are smaller than what is in view."""
    monkeypatch.setattr(viewer, "STRIPE", 1000)
    monkeypatch.setattr(features.Blocks, "SIDE", 16)
    box = (10 / scale, 31 / scale, (10 + 47) / scale, (31 + 101) / scale)
    given = whole_view(make_viewer(), box=box, height=47, width=101)
    assert np.abs(given - rendered(47, 101, box)).max() <= 1


def test_a_view_that_shrinks_is_the_photograph_antialiased() -> None:
    shown = make_viewer()
    expected = resample_rows(PHOTO, Grid((64, 96), 20, 30), (0, 20))
    for method in ("tiny", "nearest"):
        assert np.abs(whole_view(shown, method=method) - expected).max() <= 1


@pytest.mark.parametrize("name", viewer.BASELINES)
def test_baselines_are_those_of_the_demo(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer, "STRIPE", 5000)
    grid = Grid((64, 96), 130, 220, (10.0, 20.0, 40.5, 70.25))
    given = whole_view(make_viewer(), method=name, box=grid.area, height=130, width=220)
    bands = [resample_rows(PHOTO, grid, rows, name) for rows in ((0, 70), (70, 130))]
    assert np.abs(given - np.concatenate(bands)).max() <= 1
    at_once = np.concatenate([*Resized(PHOTO, name).bands(grid, np.uint8)])
    assert np.abs(given - at_once).mean() < 0.5  # Pillow rounds and clips between its passes


def test_the_reference_is_shown_where_the_photograph_is() -> None:
    """Of twice its size, so that a view of x2 is a part of it, pixel by pixel."""
    shown = make_viewer(reference=TRUTH)
    given = whole_view(shown, method="reference", box=(8, 16, 40, 64), height=64, width=96)
    assert np.array_equal(given, TRUTH[16:80, 32:128])


def test_without_the_ensemble_the_nearest_code_alone_predicts() -> None:
    plain = small_model()
    plain.local_ensemble = False
    image = ContinuousImage.represent(PHOTO, plain)
    box = (10.0, 10.0, 20.0, 25.0)
    given = whole_view(make_viewer(), box=box, height=200, width=300, ensemble=False)
    assert np.abs(given - rendered(200, 300, box, image)).max() <= 1
    assert np.abs(given - rendered(200, 300, box)).max() > 5
    assert MODEL.local_ensemble  # which is another's, too


def test_a_held_cell_is_told_to_the_model() -> None:
    box = (10.0, 10.0, 20.0, 25.0)
    given = whole_view(make_viewer(), box=box, height=80, width=120, cell=2.0)
    grid = Grid((64, 96), 80, 120, box)
    places = torch.meshgrid(grid.rows, grid.columns, indexing="ij")
    colours = ContinuousImage.represent(PHOTO, MODEL).image(*places, cell=(1 / 64, 1 / 96))
    assert np.abs(given - (colours.clamp(0, 1) * 255).round().numpy()).max() <= 1
    assert HeldCell((64, 96), 80, 120, box, 2.0).within((72, 104)).cell == (1 / 72, 1 / 104)


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """At any budget the picture is the same, and encoded again only where features were dropped."""
    monkeypatch.setattr(features.Blocks, "SIDE", 16)
    encoded = []
    encode = features.Source.encode
    monkeypatch.setattr(
        features.Source, "encode", lambda *given: encoded.append(1) or encode(*given)
    )
    pictures = []
    block = 16 * 16 * 8 * 4  # bytes, of 8 features in fp32
    for budget, times in ((100 * block, 24), (3 * block, 48)):
        encoded.clear()
        image = ContinuousImage.represent(PHOTO, MODEL, keep_features=False, cache_bytes=budget)
        pictures += [image.render(128, 192), image.render(128, 192)]
        blocks = image._source.blocks
        assert blocks is not None
        assert blocks.used == sum(map(features.size_of, blocks.kept.values())) <= budget
        assert len(encoded) == times
    assert all(torch.equal(one, pictures[0]) for one in pictures)


def test_a_newer_view_of_the_same_page_ends_an_older_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer, "STRIPE", 300)
    shown, how = make_viewer(), {"box": (0, 0, 64, 96), "height": 100, "width": 150}
    how |= {"photo": "first", "method": "tiny"}
    older = shown.stripes(View(**how, page="one", serial=3))
    coarse, other = shown.stripes(View(**how)), shown.stripes(View(**how, page="two", serial=1))
    assert all(len(next(stripes)) == 2 for stripes in (older, coarse, other))
    next(shown.stripes(View(**how, page="one", serial=4)))
    assert next(older, None) is None
    assert not [*shown.stripes(View(**how, page="one", serial=3))]
    assert sum(map(len, coarse)) == sum(map(len, other)) == 98
    for number in range(200):
        next(shown.stripes(View(**how, page=str(number), serial=1)))
    assert len(shown.serials) == viewer.PAGES


def test_views_that_are_given_up_end_their_connection(host: str) -> None:
    assert ask(host, view_path(page="p", serial=2))[0] == 200
    assert ask(host, view_path(page="p", serial=1)) == (409, b"given up")


@pytest.mark.parametrize(("header", "ends"), [("close", True), ("keep-alive", False)])
def test_a_connection_ends_if_the_page_asks_for_it(host: str, header: str, ends: bool) -> None:
    for path in ("/describe", view_path()):
        connection = http.client.HTTPConnection(host, timeout=60)
        connection.request("GET", path, headers={"Connection": header})
        assert connection.getresponse().read()
        assert connection.sock is not None
        connection.sock.settimeout(10 if ends else 0.2)
        if ends:
            assert connection.sock.recv(1) == b""
        else:
            with pytest.raises(TimeoutError):
                connection.sock.recv(1)
        connection.close()


@pytest.mark.parametrize("address", ["http://[/", "http://[::1/view", "http://]/photo"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_addresses_that_are_none_get_one_line(
    host: str, address: str, method: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_connection(("127.0.0.1", int(host.split(":")[1])), timeout=60) as connection:
        connection.sendall(f"{method} {address} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        head, body = connection.makefile("rb").read().split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert body == b"no address (Invalid IPv6 URL)"
    assert capfd.readouterr().err == ""


def test_the_server_answers_what_the_page_asks(host: str) -> None:
    status, page = ask(host, "/")
    assert (status, page.decode()) == (200, viewer_server.PAGE.read_text())
    about = json.loads(ask(host, "/describe")[1])
    model = {"name": "tiny", "trained": 4.0, "upscale": 1, "ensemble": True}
    assert about == {
        "photo": "first",
        "size": [64, 96],
        "models": [model],
        "others": ["bicubic", "nearest", "lanczos", "reference"],
        "reference": 2.0,
    }
    preview = np.asarray(Image.open(io.BytesIO(ask(host, "/preview?photo=first")[1])))
    assert np.array_equal(preview, PHOTO)
    status, body = ask(host, view_path(box="0,0,64.0000001,96", height=128, width=192))
    pixels = np.frombuffer(body, np.uint8).reshape(128, 192, 3)
    assert status == 200
    assert np.abs(pixels - rendered(128, 192, None)).max() <= 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:{port}"}, 200),
        ({"Origin": "http://{host}"}, 200),
        ({"Host": "evil.example:{port}"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_only_pages_of_this_machine_are_answered(
    host: str, headers: dict[str, str], status: int
) -> None:
    port = host.split(":")[1]
    headers = {key: value.format(host=host, port=port) for key, value in headers.items()}
    for path in ("/", "/describe", view_path()):
        given = ask(host, path, **headers)
        assert given[0] == status
        assert status == 200 or given[1] == b"only for this machine"
    assert ask(host, "/photo", "POST", b"x", **headers)[0] == (400 if status == 200 else 403)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"box": "0,0,64"}, "view: "),
        ({"box": "a,b,c,d"}, "could not convert"),
        ({"box": "nan,0,1,1"}, "box: "),
        ({"box": "5,5,5,9"}, "box: "),
        ({"box": "70,0,80,10"}, "box: "),
        ({"height": 0}, "0x30 pixels"),
        ({"height": -20, "width": -30}, "-20x-30 pixels"),
        ({"height": 10**9, "width": 10**9}, "pixels; allowed"),
        ({"width": "9" * 5000}, "view: "),
        ({"width": ""}, "view: no width given"),
        ({"photo": "other"}, "photo: no longer here"),
        ({"method": "../../etc/passwd"}, "is unknown"),
        ({"cell": "0"}, "cell: 0.0 given"),
        ({"cell": "1e-320"}, "cell: "),
        ({"cell": "nan"}, "cell: nan given"),
        ({"serial": "x"}, "view: "),
    ],
)
def test_a_bad_view_gets_one_line(host: str, changes: dict[str, Any], words: str) -> None:
    status, body = ask(host, view_path(**changes))
    assert status == 400
    assert words in body.decode()
    assert "\n" not in body.decode()


@pytest.mark.parametrize("path", ["/viewer.html", "/../demo.py", "/etc/passwd", "/favicon.ico"])
def test_other_paths_are_refused(host: str, path: str) -> None:
    assert ask(host, path) == (404, b"no such page")


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_an_uploaded_photograph_is_shown_and_the_last_ones_stay() -> None:
    shown = make_viewer()
    with serving(shown) as host:
        names = []
        for height in (10, 12, 14, 16):
            status, body = ask(host, "/photo", "POST", png(photograph(height, 20)))
            assert status == 200
            names.append(json.loads(body)["photo"])
        assert [*shown.photos] == ["first", *names[-viewer.PHOTOS + 1 :]]
        assert json.loads(ask(host, f"/describe?photo={names[-1]}")[1])["size"] == [16, 20]
        assert b"upload it again" in ask(host, f"/describe?photo={names[0]}")[1]


@pytest.mark.parametrize(
    ("body", "headers", "status", "words"),
    [
        (b"no picture", {}, 400, "upload: "),
        (b"", {}, 400, "upload: "),
        (png(PHOTO)[:-900], {}, 400, "upload: "),
        (png(np.zeros((400, 400), np.uint8)), {}, 400, "--max-pixels"),
        (b"", {"Content-Length": str(1 << 40)}, 413, "allowed: up to"),
        (b"", {"Content-Length": "9" * 5000}, 413, "allowed: up to"),
        (b"", {"Content-Length": "-5"}, 404, "no such page"),
        (b"", {"Content-Length": "²"}, 404, "no such page"),
    ],
)
def test_sizes_and_contents_of_uploads_are_not_trusted(
    host: str, body: bytes, headers: dict[str, str], status: int, words: str
) -> None:
    answered, text = ask(host, "/photo", "POST", body, **headers)
    assert answered == status
    assert words in text.decode()
    assert "\n" not in text.decode()
    assert "/tmp" not in text.decode()
    assert ask(host, "/describe")[0] == 200


def test_a_port_that_is_taken_is_one_line(host: str) -> None:
    for port in (int(host.split(":")[1]), 99999):
        with pytest.raises(ConfigError, match=f"--port: {port} given"):
            make_server(make_viewer(), port)


def test_a_notebook_opens_a_page_of_its_image(tmp_path: Any) -> None:
    """Another photograph is represented in the same way."""
    image = ContinuousImage.represent(PHOTO / np.float32(255), MODEL, cell_max_scale=4)
    host = image.view(browser=False)[7:-1]
    path = view_path(method="LIIF", height=640, width=960)
    given = np.frombuffer(ask(host, path)[1], np.uint8).reshape(640, 960, 3)
    assert np.abs(given - rendered(640, 960, None, image)).max() <= 1
    name = json.loads(ask(host, "/photo", "POST", png(PHOTO))[1])["photo"]
    path = view_path(method="LIIF", height=640, width=960, photo=name)
    assert (
        np.abs(np.frombuffer(ask(host, path)[1], np.uint8).astype(int) - given.ravel()).max() <= 1
    )
    image.spec = {"name": "liif", "args": {}}
    image.photo = None
    with pytest.raises(ConfigError, match="photograph is needed"):
        image.view(browser=False)


def test_the_demo_shows_photograph_models_and_reference(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[Any] = []
    monkeypatch.setattr(demo, "serve", lambda *given: served.append(given))
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    Image.fromarray(TRUTH).save(tmp_path / "truth.png")
    names = [str(tmp_path / "a" / "last.pth"), str(tmp_path / "b" / "last.pth")]
    for name, seed in zip(names, (0, 1), strict=True):
        (tmp_path / name).parent.mkdir()
        save_model(tmp_path / name, small_model(seed))
    given = ["--input", str(tmp_path / "photo.png"), "--view", "--port", "8123", "--no-browser"]
    truth = ["--reference", str(tmp_path / "truth.png")]
    demo.main([*given, *truth, "--model", names[0], "--model", names[1]])
    shown, port, browser = served.pop()
    assert (port, browser) == (8123, False)
    assert [*shown.methods] == ["last", names[1]]
    box = (0.0, 0.0, 32.0, 48.0)
    for method, seed in (("last", 0), (names[1], 1)):
        expected = rendered(96, 144, box, ContinuousImage.represent(PHOTO, small_model(seed)))
        view = whole_view(shown, method=method, box=box, height=96, width=144)
        assert np.abs(view - expected).max() <= 1
    assert np.array_equal(shown.shown("first").reference, TRUTH)
    demo.main(given)
    assert json.dumps(served[0][0].describe("first")["models"][0]["trained"]) == "4.5"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--view", "--scale", "2"], "--view: given with --scale"),
        (["--view", "--output", "x.png"], "--view: given with --output"),
        (["--scale", "2", "--port", "80"], "--port: given without --view"),
        (["--scale", "2", "--no-browser"], "--no-browser: given without"),
        (["--scale", "2", "--reference", "x.png"], "--reference: given without"),
        (["--scale", "2", "--model", "a", "--model", "b"], "--model: several"),
        (["--view", "photo.png"], "--view: several photographs"),
        (["--view", "--reference", "square.png"], "--reference: 64x64 pixels given"),
    ],
)
def test_options_that_do_not_go_together(
    options: list[str], words: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, pixels in (("photo", PHOTO), ("other", PHOTO), ("square", PHOTO[:, :64])):
        Image.fromarray(pixels).save(f"{name}.png")
    with pytest.raises(ConfigError, match=words):
        demo.main(["other.png", *options])


# ---- the page, in a browser ----


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if os.environ.get("LIIF_BROWSER") != "1":
        pytest.skip("LIIF_BROWSER is not 1: beside other tests, headless Chromium hangs by chance")
    with contextlib.ExitStack() as stack:
        try:
            yield stack.enter_context(chromium())
        except NoBrowser as missing:
            pytest.skip(str(missing))


@pytest.fixture
def page(browser: Any, host: str) -> Iterator[Any]:
    """The page, sharp; no error may be reported by it."""
    with opened(browser, f"http://{host}/") as made:
        yield made


@contextlib.contextmanager
def opened(browser: Any, address: str, refusals: int = 0, **how: Any) -> Iterator[Any]:
    """The page, sharp; errors that it reports fail the test, but for so many refused requests."""
    context = browser.new_context(viewport={"width": 700, "height": 520}, **how)
    made, errors = context.new_page(), []
    made.on("pageerror", lambda error: errors.append(str(error)))
    made.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    made.goto(address)
    wait_sharp(made)
    yield made
    # A view that was given up is answered by a status that browsers report.
    others = [error for error in errors if "409" not in error]
    assert len(others) == refusals, others
    context.close()


def state(page: Any) -> dict[str, Any]:
    return page.evaluate("({...state, width: paneWidth(), height: canvas.height})")


def in_view(page: Any, image: ContinuousImage | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(canvas, `render` of the same box), in levels, of what the photograph covers."""
    part = page.evaluate("visible()")
    box = tuple(
        min(edge / part["k"], limit)
        for edge, limit in zip(
            (part["y"], part["x"], part["y"] + part["h"], part["x"] + part["w"]),
            (64, 96, 64, 96),
            strict=True,
        )
    )
    now = state(page)
    top, left = round(part["y"] - now["y"]), round(part["x"] - now["x"])
    shown = pixels_of(page)[top : top + part["h"], left : left + part["w"], :3].astype(int)
    return shown, rendered(part["h"], part["w"], box, image)


def zoom_about(page: Any, x: int, y: int, scale: float) -> None:
    """By turning the wheel at (x, y) of the canvas."""
    box = page.locator("#view").bounding_box()
    page.mouse.move(box["x"] + x, box["y"] + y)
    for _ in range(5):
        now = state(page)["k"]
        if abs(now / scale - 1) < 1e-3:
            break
        page.mouse.wheel(0, float(np.log(now / scale)) / 0.002)
        page.wait_for_function("k => state.k !== k", arg=now)
    wait_sharp(page)


@pytest.mark.parametrize("ratio", [1, 2])
def test_the_canvas_shows_what_render_gives(browser: Any, host: str, ratio: int) -> None:
    """At x50 about a point, which stays where it is; left of the divider the model."""
    with opened(browser, f"http://{host}/", device_scale_factor=ratio) as page:
        before, x, y = state(page), 400, 250
        zoom_about(page, x, y, 50)
        after = state(page)
        assert after["width"] == 700 * ratio
        for axis, place in (("x", x * ratio), ("y", y * ratio)):
            was, now = ((one[axis] + place) / one["k"] for one in (before, after))
            assert abs(was - now) <= 1 / before["k"]
        shown, expected = in_view(page)
        half = after["width"] // 2
        assert shown.shape == (after["height"], after["width"], 3)
        assert np.abs(shown - expected)[:, :half].max() <= 1
        page.select_option("#mode", "single")
        wait_sharp(page)
        shown, expected = in_view(page)
        assert np.abs(shown - expected).max() <= 1
        assert "beyond training" in page.inner_text("#scale")
        assert "PSNR up to ×2.00" in page.inner_text("#status")


def test_the_divider_is_dragged(page: Any) -> None:
    box = page.locator("#divider").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, 300)
    page.mouse.down()
    page.mouse.move(600, 300, steps=3)
    page.mouse.up()
    assert abs(state(page)["split"] - 600 / 700) < 0.01
    shown, expected = in_view(page)
    split = 600 - round(-state(page)["x"]) - 2
    assert np.abs(shown - expected)[:, :split].max() <= 1
    assert np.abs(shown - expected)[:, split + 4 :].max() > 5
    page.focus("#divider")
    page.keyboard.press("ArrowLeft")
    assert abs(state(page)["split"] - 600 / 700 + 0.02) < 0.01


def test_the_ensemble_is_switched_off(page: Any) -> None:
    page.select_option("#mode", "single")
    zoom_about(page, 350, 200, 30)
    page.keyboard.press("e")
    assert not page.is_checked("#ensemble")
    wait_sharp(page)
    plain = small_model()
    plain.local_ensemble = False
    shown, expected = in_view(page, ContinuousImage.represent(PHOTO, plain))
    assert np.abs(shown - expected).max() <= 1


def test_another_photograph_is_uploaded_while_a_second_window_keeps_its_own(
    browser: Any, page: Any, host: str
) -> None:
    with opened(browser, f"http://{host}/") as second:
        other = photograph(40, 40, offset=200)
        file = {"name": "../../a.png", "mimeType": "image/png", "buffer": png(other)}
        page.set_input_files("#file", file)
        page.wait_for_function("info.size[0] === 40")
        wait_sharp(page)
        page.select_option("#mode", "single")
        second.select_option("#mode", "single")
        zoom_about(page, 300, 200, 40)
        zoom_about(second, 300, 200, 45)
        part = page.evaluate("visible()")
        box = [part["y"], part["x"], part["y"] + part["h"], part["x"] + part["w"]]
        top, left, bottom, right = (edge / part["k"] for edge in box)
        image = ContinuousImage.represent(other, MODEL)
        expected = rendered(part["h"], part["w"], (top, left, bottom, right), image)
        assert np.abs(pixels_of(page)[..., :3] - expected).max() <= 1
        shown, expected = in_view(second)
        assert np.abs(shown - expected).max() <= 1


def test_two_fingers_pinch_and_one_pans(browser: Any, host: str) -> None:
    """Real touches; what lies between the fingers stays there."""
    with opened(browser, f"http://{host}/", has_touch=True) as page:
        page.select_option("#mode", "single")
        box, before = page.locator("#view").bounding_box(), state(page)
        touch = page.context.new_cdp_session(page)

        def fingers(kind: str, *places: tuple[int, int]) -> None:
            points = [
                {"x": box["x"] + x, "y": box["y"] + y, "id": number}
                for number, (x, y) in enumerate(places)
            ]
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        fingers("touchStart", (300, 200), (400, 200))
        for half in range(60, 201, 20):
            fingers("touchMove", (350 - half, 200), (350 + half, 200))
        fingers("touchEnd")
        page.wait_for_function("k => state.k > 3.9 * k", arg=before["k"])
        wait_sharp(page)
        after = state(page)
        assert after["k"] == pytest.approx(4 * before["k"], rel=1e-3)
        for axis, place in (("x", 350), ("y", 200)):
            was, now = ((one[axis] + place) / one["k"] for one in (before, after))
            assert abs(was - now) <= 1 / before["k"]
        fingers("touchStart", (300, 200))
        fingers("touchMove", (260, 230))
        fingers("touchEnd")
        page.wait_for_function("x => state.x !== x", arg=after["x"])
        moved = state(page)
        assert (moved["x"] - after["x"], moved["y"] - after["y"]) == (40, -30)
        wait_sharp(page)
        shown, expected = in_view(page)
        assert np.abs(shown - expected).max() <= 1


def test_double_click_zooms_and_the_map_pans(page: Any) -> None:
    before = state(page)
    page.dblclick("#view", position={"x": 200, "y": 100})
    assert state(page)["k"] == pytest.approx(2 * before["k"], rel=1e-4)
    zoom_about(page, 350, 200, 30)
    there = page.locator("#map").bounding_box()
    page.mouse.click(there["x"] + there["width"] / 4, there["y"] + there["height"] / 2)
    wait_sharp(page)
    now = state(page)
    assert (now["x"] + now["width"] / 2) / now["k"] == pytest.approx(96 / 4, abs=1)
    assert (now["y"] + now["height"] / 2) / now["k"] == pytest.approx(64 / 2, abs=1)


def test_a_dropped_photograph_is_shown(page: Any) -> None:
    content = base64.b64encode(png(photograph(40, 40, offset=200))).decode()
    held = page.evaluate_handle(
        """text => {
          const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
          const held = new DataTransfer();
          held.items.add(new File([bytes], "a.png", { type: "image/png" }));
          return held;
        }""",
        content,
    )
    page.dispatch_event("#view", "dragover", {"dataTransfer": held})
    assert page.evaluate("main.classList.contains('dropping')")
    page.dispatch_event("#view", "drop", {"dataTransfer": held})
    page.wait_for_function("info.size[0] === 40")
    wait_sharp(page)
    assert not page.evaluate("main.classList.contains('dropping')")


def test_what_is_no_photograph_is_said_on_the_page(browser: Any, host: str) -> None:
    with opened(browser, f"http://{host}/", refusals=1) as page:
        page.evaluate("upload(new Blob(['nothing']))")
        page.wait_for_function("$('status').textContent.includes('upload: ')")
        page.evaluate("changed()")
        wait_sharp(page)
        assert page.inner_text("#status").startswith("sharp")


def test_the_address_holds_the_view(browser: Any, page: Any) -> None:
    zoom_about(page, 500, 300, 33)
    page.select_option("#mode", "side")
    page.keyboard.press("e")
    page.keyboard.press("g")
    page.evaluate("$('hold').click()")
    wait_sharp(page)
    with opened(browser, page.url) as second:
        assert state(second) == state(page)
        assert np.array_equal(pixels_of(second), pixels_of(page))


def test_error_and_psnr_of_what_is_in_view(page: Any) -> None:
    page.select_option("#a", "bicubic")
    page.select_option("#b", "error")
    page.evaluate("state.k = 2; state.x = state.y = 0; keepInside(); changed()")
    wait_sharp(page)
    assert page.evaluate("visible()")["w"] == 192
    expected = resample_rows(PHOTO, Grid((64, 96), 128, 192), (0, 128)).astype(int)
    squared = ((expected - TRUTH.astype(int)) ** 2).mean()
    assert f"bicubic {10 * np.log10(255**2 / squared):.2f} dB" in page.inner_text("#status")
    now = state(page)
    shown = pixels_of(page)[-now["y"] : 128 - now["y"], -now["x"] : 192 - now["x"], :3]
    half = round(0.5 * 700) + now["x"]
    error = np.minimum(4 * np.abs(expected - TRUTH), 255)
    assert np.array_equal(shown[:, half:], error[:, half:])


def test_no_frame_is_blank_while_one_wheels(page: Any) -> None:
    blank = page.evaluate(
        """async () => {
          let blank = 0;
          for (let i = 0; i < 30; i++) {
            zoomTo(state.k * 1.12, middle());
            await new Promise(requestAnimationFrame);
            const data = context.getImageData(0, 0, canvas.width, canvas.height).data;
            const some = data.filter((_, at) => at % 4004 === 3);
            if (state.k > 10 && some.includes(0)) blank++;
          }
          return blank;
        }"""
    )
    assert blank == 0


def test_the_page_works_by_keyboard(page: Any) -> None:
    page.focus("#main")
    first = state(page)
    for key in ("+", "+", "ArrowRight", "ArrowDown", "d", "]"):
        page.keyboard.press(key)
    then = state(page)
    assert then["k"] == pytest.approx(first["k"] * 1.25**2, rel=1e-4)
    assert then["mode"] == "side"
    page.keyboard.press("1")
    assert state(page)["k"] == 1
    page.keyboard.press("0")
    assert state(page)["k"] == pytest.approx(min(350 / 96, then["height"] / 64), rel=1e-4)
    page.keyboard.press("?")
    assert page.is_visible("#help")
    page.keyboard.press("Escape")
    with page.expect_download() as download:
        page.keyboard.press("s")
    wait_sharp(page)
    assert np.asarray(Image.open(download.value.path())).shape == (then["height"], 700, 4)
