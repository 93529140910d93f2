"""A headless Chromium that is told what to do over two pipes: DevTools' protocol, no package.

With `--remote-debugging-pipe` Chromium reads commands at descriptor 3 and answers at 4, JSON ended
by a zero byte. Windows can then be as narrow as a phone, which `--window-size` does not allow.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
_FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
_FLAGS += ["--hide-scrollbars", "--remote-debugging-pipe", "--no-first-run"]

DRAWN = """(() => [...document.querySelectorAll("[data-panel]")].map(e => {
  const svg = e.querySelector("svg.main-svg"), box = e.getBoundingClientRect();
  const marks = e.querySelectorAll(".trace path, .point path, .bars path, .hm image, .contour");
  return [e.dataset.panel, svg ? marks.length : -1, box.width, box.height];
}))()"""
"""Every panel: its id, how many marks it drew (-1 without a drawing), its width and height."""

WIDTHS = "[document.documentElement.scrollWidth, innerWidth]"


class Browser:
    """One Chromium with one page at a time."""

    def __init__(self, folder: Path) -> None:
        """Start it with a profile in `folder`."""
        theirs_in, self._commands = os.pipe()
        self._answers, theirs_out = os.pipe()
        # bash, because descriptors above 9 are no number to every shell
        wiring = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        command = [str(CHROMIUM), *_FLAGS, f"--user-data-dir={folder}", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", wiring, "bash", *command],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._rest, self._number = b"", 0
        self._events: list[dict[str, Any]] = []
        self._session: str | None = None
        targets = self._ask("Target.getTargets")["targetInfos"]
        page = next(target for target in targets if target["type"] == "page")
        attached = self._ask("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._ask(f"{domain}.enable")

    def open(self, path: Path, width: int, dark: bool = False, media: str = "") -> None:
        """Show a file in a window of this width, as `prefers-color-scheme` and `media` say."""
        self._events.clear()
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", media=media, features=[scheme])
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self._ask("Emulation.setDeviceMetricsOverride", **size)
        self._ask("Page.navigate", url=path.as_uri())
        self._wait("Page.loadEventFired")
        self.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done, 300)))")

    def evaluate(self, expression: str) -> Any:
        """Return what an expression of the page comes to."""
        options = {"returnByValue": True, "awaitPromise": True}
        found = self._ask("Runtime.evaluate", expression=expression, **options)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def errors(self) -> list[str]:
        """Return what the page has complained of since it was opened."""
        told = []
        for event in self._events:
            facts = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                told.append(json.dumps(facts["exceptionDetails"]))
            elif event["method"] == "Log.entryAdded" and facts["entry"]["level"] == "error":
                told.append(facts["entry"]["text"])
            elif event["method"] == "Runtime.consoleAPICalled" and facts["type"] in (
                "error",
                "warning",
                "assert",
            ):
                told.append(json.dumps(facts["args"]))
        return told

    def screenshot(self, path: Path) -> None:
        """Save the whole page as PNG."""
        shot = self._ask("Page.captureScreenshot", captureBeyondViewport=True, **self._whole())
        path.write_bytes(base64.b64decode(shot["data"]))

    def pdf(self, path: Path) -> None:
        """Print the page."""
        printed = self._ask("Page.printToPDF", paperWidth=8.27, paperHeight=11.69)
        path.write_bytes(base64.b64decode(printed["data"]))

    def press(self, key: str) -> None:
        """Press a key and let it go."""
        for kind in ("keyDown", "keyUp"):
            code = {"Tab": 9, "Enter": 13}[key]
            event = {"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code}
            self._ask("Input.dispatchKeyEvent", **event)

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(20)
        os.close(self._commands)
        os.close(self._answers)

    def _whole(self) -> dict[str, Any]:
        size = self._ask("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        return {"clip": clip}

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer)
                return dict(answer["result"])

    def _wait(self, method: str) -> None:
        while not any(event["method"] == method for event in self._events):
            self._next()

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + 120
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], deadline - time.monotonic())
            part = os.read(self._answers, 1 << 16) if ready else b""
            if not part:
                raise TimeoutError("Chromium has ended, or does not answer")
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        if "method" in found:
            self._events.append(found)
        return found
