"""A headless Chromium, steered through its DevTools protocol, and what is looked at on a page."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
    # Requests to the network are made, seen by us, and never answered.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
WIDTHS = (1280, 390)  # a laptop, a telephone
LOCAL = ("file:", "data:", "blob:", "about:", "chrome:")

SCRIPT = Path(__file__).with_name("_look.js")
KEY_CODES = {"ArrowLeft": 37, "ArrowRight": 39}


class BrowserError(Exception):
    """The browser could not be started or did not answer."""


@dataclass
class Report:
    """What one page did."""

    external: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    sliders: int = 0

    def problems(self) -> list[str]:
        """Everything that should not be."""
        return [
            *(f"asked the network for {url}" for url in self.external),
            *(f"console error: {text}" for text in self.errors),
            *self.findings,
        ]


def find_browser() -> str | None:
    """Path of a Chromium, if there is one."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


class Tab:
    """One tab: commands go out and events come in over a websocket."""

    def __init__(self, address: str) -> None:
        import websocket

        self.socket = websocket.create_connection(address, timeout=60)
        self.events: list[dict[str, Any]] = []
        self.number = 0

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer, keeping events that come before it."""
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == self.number:
                if "error" in message:
                    raise BrowserError(f"{method}: {message['error'].get('message')}")
                return message["result"]
            self.events.append(message)

    def run(self, script: str) -> Any:
        """Value of a piece of JavaScript in the page."""
        answer = self.send(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise BrowserError(
                answer["exceptionDetails"].get("exception", {}).get("description", "script failed")
            )
        return answer["result"].get("value")

    def resize(self, width: int = 1280, height: int = 900) -> None:
        """Give the window another size, in CSS pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        self.run("new Promise(done => setTimeout(() => done(true), 200))")  # columns move

    def open(self, url: str) -> None:
        """Go to a page and wait until it has come to rest."""
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.send(f"{domain}.enable")
        self.resize()
        self.events.clear()
        self.send("Page.navigate", url=url)
        self.wait_for("Page.loadEventFired")
        self.run(SCRIPT.read_text(encoding="utf-8"))
        self.run("look.settle()")

    def wait_for(self, method: str) -> None:
        """Wait for an event."""
        while not any(event.get("method") == method for event in self.events):
            self.events.append(json.loads(self.socket.recv()))

    def picture(self) -> bytes:
        """What the window shows, as PNG."""
        return base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"])

    def whole_page(self, width: int) -> bytes:
        """The page from top to bottom (16,000 pixels at most) in a window of the given width."""
        self.resize(width)
        height = self.run("document.documentElement.scrollHeight")
        self.resize(width, min(height, 16_000))
        picture = self.picture()
        self.resize()
        return picture

    def press(self, key: str) -> None:
        """Press and release a key."""
        common = {"key": key, "code": key, "windowsVirtualKeyCode": KEY_CODES[key]}
        self.send("Input.dispatchKeyEvent", type="keyDown", **common)
        self.send("Input.dispatchKeyEvent", type="keyUp", **common)


@contextmanager
def browser(executable: str) -> Iterator[Tab]:
    """Start Chromium with an empty profile, hand out a tab, and end it afterwards."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [executable, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield Tab(_tab_address(Path(profile) / "DevToolsActivePort", process))
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _tab_address(port_file: Path, process: subprocess.Popen[bytes], patience: float = 60.0) -> str:
    """Find the websocket of the first tab; Chromium writes its port into its profile."""
    from urllib.request import ProxyHandler, build_opener

    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise BrowserError(f"it ended at once with status {process.returncode}")
        lines = port_file.read_text().splitlines() if port_file.exists() else []
        if len(lines) >= 2:
            with build_opener(ProxyHandler({})).open(
                f"http://127.0.0.1:{lines[0]}/json", timeout=10
            ) as answer:
                tabs = [tab for tab in json.load(answer) if tab["type"] == "page"]
            if tabs:
                return tabs[0]["webSocketDebuggerUrl"]
        time.sleep(0.1)
    raise BrowserError(f"it was not ready within {patience:.0f} s")


def inspect(tab: Tab, page: Path, picture: Path | None = None) -> Report:
    """Open a page, look for what is wrong with it, and move its sliders by keyboard."""
    tab.open(page.resolve().as_uri())
    report = Report()
    if picture is not None:
        picture.parent.mkdir(parents=True, exist_ok=True)
        for width in WIDTHS:
            picture.with_stem(f"{picture.stem}-{width}").write_bytes(tab.whole_page(width))
    report.findings = list(tab.run("look.findings()"))
    for width in WIDTHS:
        tab.resize(width)
        if wide := tab.run("look.tooWide()"):
            report.findings.append(f"wider than a window of {width} pixels: {wide}")
    tab.resize()
    report.sliders = int(tab.run("look.sliders().length"))
    for number in range(report.sliders):
        if problem := slider_problem(tab, number):
            report.findings.append(f"slider {number + 1}: {problem}")
    tab.run("true")  # collects the events that are still on their way
    report.external = external_requests(tab.events)
    report.errors = console_errors(tab.events)
    return report


def slider_problem(tab: Tab, number: int) -> str | None:
    """Press an arrow key on a slider; tell what did not happen, if anything."""
    value, key, focused = tab.run(f"look.focus({number})")
    if not focused:
        return "it does not take the focus"
    others = tab.run(f"look.otherValues({number})")
    before = _picture_without_sliders(tab)
    tab.run(f"look.focus({number})")
    tab.press(key)
    tab.run("look.pause(250)")
    if tab.run(f"look.sliders()[{number}].value") == value:
        return f"the key {key} does not move it"
    if _picture_without_sliders(tab) == before:
        return "moving it changes nothing that can be seen"
    if tab.run(f"look.otherValues({number})") != others:
        return "moving it moves another slider, too"
    return None


def _picture_without_sliders(tab: Tab) -> bytes:
    """The window with all sliders invisible, so that only what they steer can differ."""
    tab.run("look.showSliders(false)")
    picture = tab.picture()
    tab.run("look.showSliders(true)")
    return picture


def external_requests(events: list[dict[str, Any]]) -> list[str]:
    """Addresses outside of the book that the page asked for."""
    urls = [
        e["params"]["request"]["url"]
        for e in events
        if e.get("method") == "Network.requestWillBeSent"
    ]
    urls += [e["params"]["url"] for e in events if e.get("method") == "Network.webSocketCreated"]
    return [url for url in urls if not url.startswith(LOCAL)]


def console_errors(events: list[dict[str, Any]]) -> list[str]:
    """Errors that the page wrote to the console, uncaught exceptions and failed loads included."""
    errors = []
    for event in events:
        method, given = event.get("method"), event.get("params", {})
        if method == "Runtime.consoleAPICalled" and given["type"] in ("error", "assert"):
            errors.append(
                " ".join(str(a.get("value", a.get("description", ""))) for a in given["args"])
            )
        elif method == "Runtime.exceptionThrown":
            details = given["exceptionDetails"]
            errors.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Log.entryAdded" and given["entry"]["level"] == "error":
            errors.append(f"{given['entry']['text']} {given['entry'].get('url', '')}".strip())
    return errors
