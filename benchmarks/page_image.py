"""The picture of the page in the README, from a committed run: `make page-image`.

Needs chromium and chromedriver on PATH, and selenium; nothing is downloaded.
"""

from __future__ import annotations

import base64
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RUN = ROOT / "artifacts" / "reference" / "epyc2-20261123-bert-intervals.jsonl"
IMAGE = ROOT / "docs" / "images" / "page.png"
WIDTH, HEIGHT = 1280, 1180
PROGRAMS = ("chromium", "chromedriver")
DRAWN_SECONDS = 60


def open_browser() -> Any:
    """A headless Chromium that notes its console and its requests; the caller quits it."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    os.environ["SE_OFFLINE"] = "true"  # selenium would else look for a driver to download
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(str(shutil.which("chromedriver"))))


def show(browser: Any, page: Path, width: int = WIDTH, height: int = 900, scheme: str = "light") -> None:
    """Open `page` as a screen of `width` × `height` CSS pixels shows it, and wait until all plots are drawn."""
    from selenium.webdriver.support.ui import WebDriverWait

    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": features})
    browser.get(page.resolve().as_uri())
    drawn = "return document.documentElement.dataset.drawn === 'yes'"
    WebDriverWait(browser, DRAWN_SECONDS).until(lambda one: one.execute_script(drawn))


def screenshot(browser: Any, width: int, height: int) -> bytes:
    """The top of what `show` opened, as PNG."""
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    taken = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    return base64.b64decode(taken["data"])


def main() -> int:
    """Write `IMAGE`."""
    from bench.report.page.render import page
    from bench.run.file import read_run

    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        print(f"{' and '.join(missing)} not found; apt-get install chromium chromium-driver", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "page.html"
        file.write_text(page([read_run(RUN)]))
        browser = open_browser()
        try:
            show(browser, file)
            IMAGE.parent.mkdir(parents=True, exist_ok=True)
            IMAGE.write_bytes(screenshot(browser, WIDTH, HEIGHT))
        finally:
            browser.quit()
    print(f"wrote {IMAGE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
