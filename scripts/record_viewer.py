"""Record docs/images/viewer.webp: the page of `demo.py --view`, driven in headless Chromium.

    python scripts/record_viewer.py

Frames are what the real page shows; time is not: a wheel's turn takes as long as a frame, and
waiting for a sharp picture is left out. The photograph is the cat Chelsea (CC0, Stefan van der
Walt), which scikit-image carries, reduced to half. Needs playwright (pip install playwright) and
chromium.
"""

from __future__ import annotations

import argparse
import functools
import io
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datasets.resize import resize_matlab
from engine.render import ContinuousImage
from engine.render.viewer import CACHE_BYTES, Shown, Viewer
from engine.render.viewer_server import address_of, make_server
from engine.runtime import run_script, say
from engine.weights.pretrained import DEFAULT, import_optional, load_model

SIZE = {"width": 1000, "height": 620}
MOVING, RESTING = 70, 1600  # milliseconds of a frame
# An arrow where the mouse is, which screenshots leave out.
ARROW = """
  const arrow = document.createElement("div");
  arrow.style.cssText = "position: fixed; z-index: 9; width: 14px; height: 20px; background: #fff;"
    + "clip-path: polygon(0 0, 100% 65%, 55% 68%, 35% 100%, 0 80%);"
    + "pointer-events: none";
  document.body.append(arrow);
  addEventListener("pointermove", event => {
    arrow.style.left = event.clientX + "px"; arrow.style.top = event.clientY + "px";
  }, true);
"""


class Recorder:
    """A page, and the frames that were taken of it."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.frames: list[Image.Image] = []
        self.times: list[int] = []

    def take(self, milliseconds: int = MOVING) -> None:
        frame = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        if self.frames and frame.tobytes() == self.frames[-1].tobytes():
            self.times[-1] += milliseconds
            return
        self.frames.append(frame)
        self.times.append(milliseconds)

    def rest(self, milliseconds: int = RESTING) -> None:
        """A frame of the sharp picture."""
        self.page.wait_for_selector("body[data-sharp]", timeout=300_000, state="attached")
        self.take(milliseconds)

    def wheel(self, y: float, x: float, turns: int, by: float) -> None:
        """Zoom about a point of the page: by that factor in all."""
        self.page.mouse.move(x, y)
        for _ in range(turns):
            self.page.mouse.wheel(0, -float(np.log(by)) / turns / 0.002)
            self.page.wait_for_function("Object.values(layers).every(slot => !slot.asking)")
            self.take()

    def glide(self, *points: tuple[float, float], steps: int) -> None:
        """Move the mouse through points (y, x)."""
        for y, x in np.concatenate(
            [*map(lambda a, b: np.linspace(a, b, steps), points, points[1:])]
        ):
            self.page.mouse.move(x, y)
            self.take()

    def save(self, path: Path) -> None:
        first, *rest = self.frames
        how = {"duration": self.times, "loop": 0, "quality": 62, "method": 6}
        first.save(path, "WEBP", save_all=True, append_images=rest, **how)


def play(recorder: Recorder) -> None:
    """From the whole cat into its eye, and what the controls do there."""
    page = recorder.page
    recorder.rest()
    y, x = 232, 386  # where its eye glints, on the page
    recorder.wheel(y, x, turns=12, by=3.2)
    recorder.rest()
    middle = SIZE["width"] / 2
    height = 0.5 * (SIZE["height"] + 10)
    page.mouse.move(middle, height)
    page.mouse.down()
    recorder.glide((height, middle), (height, 180), (height, 820), (height, middle), steps=7)
    page.mouse.up()
    recorder.rest(600)
    recorder.wheel(y, x, turns=12, by=6)
    recorder.rest()
    page.select_option("#mode", "single")
    page.keyboard.press("g")
    recorder.rest(300)
    recorder.glide((y, x), (290, 500), (360, 440), steps=6)
    recorder.rest(900)
    page.keyboard.press("e")
    recorder.rest()
    recorder.glide((360, 440), (250, 540), steps=6)
    page.keyboard.press("e")
    recorder.rest(700)
    page.keyboard.press("g")
    page.select_option("#mode", "divider")
    recorder.wheel(y, x, turns=10, by=1 / 19)
    page.keyboard.press("0")
    recorder.rest(900)


def main() -> None:
    parser = argparse.ArgumentParser(description="Record the viewer for the README.")
    parser.add_argument("--model", help="a checkpoint, or the name of weights")
    parser.add_argument("--output", type=Path, default=Path("docs/images/viewer.webp"))
    options = parser.parse_args()
    api = import_optional("playwright.sync_api", "to drive the page")
    original = np.ascontiguousarray(skimage.data.chelsea()[:300, :450])
    model = load_model(options.model)

    represent = functools.partial(
        ContinuousImage.represent, model=model, keep_features=False, cache_bytes=CACHE_BYTES
    )

    viewer = Viewer({Path(options.model or DEFAULT).stem: represent})
    viewer.add(Shown(resize_matlab(original, (150, 225))))
    with make_server(viewer) as server, api.sync_playwright() as playwright:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        switches = {"executable_path": shutil.which("chromium"), "args": ["--no-sandbox"]}
        page = playwright.chromium.launch(**switches).new_page(viewport=SIZE)
        page.goto(address_of(server))
        page.evaluate(ARROW)
        recorder = Recorder(page)
        play(recorder)
        server.shutdown()
    recorder.save(options.output)
    size = options.output.stat().st_size
    say(f"{options.output}: {len(recorder.frames)} frames, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    run_script(main)
