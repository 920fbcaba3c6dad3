"""Headless Chromium that opens the viewer's page: for tests and benchmarks."""

from __future__ import annotations

import base64
import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np

SWITCHES = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
SHARP = 120_000  # milliseconds to wait for a picture at most


class NoBrowser(Exception):
    """What is missing."""


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A `playwright.sync_api.Browser`, closed afterwards; NoBrowser says what is missing."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise NoBrowser("needs playwright (pip install playwright)") from None
    path = shutil.which("chromium")
    if path is None:
        raise NoBrowser("needs chromium (apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*SWITCHES])
        try:
            yield browser
        finally:
            browser.close()


def wait_sharp(page: Any) -> None:
    page.wait_for_selector("body[data-sharp]", timeout=SHARP, state="attached")


def pixels_of(page: Any, canvas: str = "view") -> np.ndarray:
    """What a canvas shows, uint8 (height, width, 4)."""
    height, width, data = page.evaluate(
        """id => {
          const { width, height } = document.getElementById(id);
          const context = document.getElementById(id).getContext("2d");
          const data = context.getImageData(0, 0, width, height).data;
          let text = "";
          for (let i = 0; i < data.length; i += 8192) {
            text += String.fromCharCode(...data.subarray(i, i + 8192));
          }
          return [height, width, btoa(text)];
        }""",
        canvas,
    )
    return np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)
