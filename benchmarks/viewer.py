"""How long the viewer's page takes in headless Chromium: first picture, coarse, sharp.

    python benchmarks/viewer.py [--threads 2] [--rounds 5] [--megapixels 0.26 24]

The canvas has 900x600 pixels; server and browser share the machine. "First" is from opening the
page to the whole photograph on it; "coarse" and "sharp" are from the last turn of the wheel that
zooms to x25 about a new point, each time one whose features are not in the cache; the wheel turns
twelve times, once a frame. Needs playwright and chromium, as tests/test_viewer.py does.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datasets.resize import resize_pil
from engine.render import ContinuousImage
from engine.render.viewer import CACHE_BYTES, Shown, Viewer
from engine.render.viewer_server import address_of, make_server
from engine.weights.pretrained import load_model
from tests.browser import chromium, wait_sharp

SCALE = 25
# Resolves to milliseconds from now to: the whole photograph, then `layers` of the model.
FIRST = """new Promise(done => {
  const look = () => preview ? done(performance.now()) : requestAnimationFrame(look);
  look();
})"""
ZOOM = """([y, x, scale]) => new Promise(async done => {
  const times = {}, factor = (scale / state.k) ** (1 / 12);
  for (let turn = 1; turn < 12; turn++) {
    zoomTo(state.k * factor, { x, y });
    await new Promise(requestAnimationFrame);
  }
  zoomTo(scale, { x, y });
  const start = performance.now(), slot = layers[state.a];
  const look = () => {
    const now = performance.now() - start;
    if (!times.coarse && slot.coarse?.k === scale) times.coarse = now;
    if (document.body.dataset.sharp) done({ coarse: now, ...times, sharp: now });
    else requestAnimationFrame(look);
  };
  look();
})"""


def measure(browser: Any, address: str, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each round."""
    times: dict[str, list[float]] = {"first": [], "coarse": [], "sharp": []}
    places = np.random.default_rng(0).integers((50, 50), (550, 850), (rounds, 2)).tolist()
    for y, x in places:
        page = browser.new_page(viewport={"width": 1200, "height": 800})
        page.goto(address)
        times["first"].append(page.evaluate(FIRST))
        page.evaluate("main.style.cssText = 'flex: none; width: 900px; height: 600px'")
        page.wait_for_function("canvas.width === 900 && canvas.height === 600")
        page.evaluate("whole()")
        wait_sharp(page)
        for key, value in page.evaluate(ZOOM, [y, x, SCALE]).items():
            times[key].append(value)
        page.close()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the viewer's page.")
    parser.add_argument("--model", help="a checkpoint, or the name of weights")
    parser.add_argument("--megapixels", type=float, nargs="+", default=[0.26, 24])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = load_model(options.model)

    represent = functools.partial(
        ContinuousImage.represent, model=model, keep_features=False, cache_bytes=CACHE_BYTES
    )

    print("| photograph | first picture, ms | coarse, ms | sharp, ms |")
    print("| --- | ---: | ---: | ---: |")
    with chromium() as browser:
        for megapixels in options.megapixels:
            height = round((megapixels * 1e6 / 1.5) ** 0.5)
            size = (height, round(1.5 * height))
            viewer = Viewer({"model": represent})
            viewer.add(Shown(resize_pil(skimage.data.astronaut(), size)))
            with make_server(viewer) as server:
                threading.Thread(target=server.serve_forever, daemon=True).start()
                times = measure(browser, address_of(server), options.rounds)
                server.shutdown()
            middle = (f"{statistics.median(values):.0f}" for values in times.values())
            print(f"| {size[0]}x{size[1]} | {' | '.join(middle)} |", flush=True)


if __name__ == "__main__":
    main()
