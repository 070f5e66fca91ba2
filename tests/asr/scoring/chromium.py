"""A headless Chromium that a test talks to: the DevTools protocol over a pipe, which needs no package.

https://chromedevtools.github.io/devtools-protocol/: JSON messages, each ended by a zero byte.
"""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Self

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
_OFFLINE = ("--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND", "--mute-audio")


class Browser:
    """One page of a browser of its own, used as a context manager."""

    def __init__(self, profile: Path, *, timeout_s: float = 60.0) -> None:
        assert CHROMIUM is not None
        self.timeout_s = timeout_s
        self.said: list[str] = []  # what the page wrote to the console, and what failed to load
        self.asked: list[str] = []  # addresses that the page asked for
        self._count, self._pending = 0, b""
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        # the child has to find the ends of the pipes as descriptors 3 and 4
        shell = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'
        size = "--window-size=1400,1000"
        command = [CHROMIUM, *_FLAGS, *_OFFLINE, size, f"--user-data-dir={profile}", "--remote-debugging-pipe"]
        self._process = subprocess.Popen(
            ["bash", "-c", shell, *command],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session: str | None = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    _session = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session = None
        with contextlib.suppress(OSError, EOFError, TimeoutError):
            self.call("Browser.close")
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Send a command and return its result; what happens meanwhile is kept."""
        self._count += 1
        message: dict[str, object] = {"id": self._count, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (found := self._receive()).get("id") != self._count:
            self._keep(found)
        assert "error" not in found, (method, found["error"])
        return found["result"]

    def open(self, page: Path) -> None:
        """Open a file and wait until it is complete."""
        self.call("Page.navigate", url=page.resolve().as_uri())
        self.wait("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """Evaluate an expression as if the user had asked for it, awaited if it is a promise; return its value."""
        how = {"awaitPromise": True, "returnByValue": True, "userGesture": True}
        found = self.call("Runtime.evaluate", expression=script, **how)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until an expression is true."""
        until = time.monotonic() + self.timeout_s
        while not self.run(condition):
            assert time.monotonic() < until, f"never true: {condition}"
            time.sleep(0.05)

    def press(self, key: str, text: str = "") -> None:
        """Press a key; `text` is what it types."""
        code = {"Enter": 13}.get(key, 0)
        sent = {"key": key, "text": text, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", **sent)
        self.call("Input.dispatchKeyEvent", type="keyUp", **sent)

    def picture(self, out: Path, *, whole: bool = False) -> None:
        """Write a PNG of the window, or of the whole page."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        out.write_bytes(base64.b64decode(found["data"]))

    def _keep(self, message: dict[str, Any]) -> None:
        parameters = message.get("params", {})
        match message.get("method"):
            case "Runtime.consoleAPICalled":
                self.said.append(" ".join(str(each.get("value")) for each in parameters["args"]))
            case "Runtime.exceptionThrown":
                self.said.append(json.dumps(parameters["exceptionDetails"]))
            case "Log.entryAdded":
                self.said.append(parameters["entry"]["text"])
            case "Network.requestWillBeSent":
                self.asked.append(parameters["request"]["url"])

    def _receive(self) -> dict[str, Any]:
        until = time.monotonic() + self.timeout_s
        while b"\0" not in self._pending:
            ready, _, _ = select.select([self._in], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise TimeoutError(f"no answer of the browser in {self.timeout_s:g} s")
            part = os.read(self._in, 2**20)
            if not part:
                raise EOFError("the browser has ended")
            self._pending += part
        line, _, self._pending = self._pending.partition(b"\0")
        return json.loads(line)
