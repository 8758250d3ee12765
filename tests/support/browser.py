"""Headless Chromium, driven through its debugging pipe."""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

CHROMIUM = shutil.which("chromium")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
FLAGS += ["--remote-debugging-pipe", "--disable-dev-shm-usage", "--disable-extensions"]


class Tab:
    """A page in a browser.

    Attributes
    ----------
    requests, wrong
        The addresses that it asked for, and what its console complained about.
    """

    def __init__(self, reading, writing):
        self._reading, self._writing, self._rest = reading, writing, b""
        self._ids, self._session = itertools.count(1), None
        self.requests, self.wrong = [], []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        """Return the result of a command."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self._note(answer)

    def run(self, code):
        """Return what an asynchronous function of this body returns in the page."""
        wait = "const until = async (f) => { for (let n = 0; n < 1500; n++) { if (f()) return; "
        wait += "await new Promise((d) => setTimeout(d, 10)); } throw Error('never: ' + f); };"
        whole = f"(async () => {{ {wait} {code} }})()"
        done = self.call(
            "Runtime.evaluate", expression=whole, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def show(self, url, width=1280, height=800, touch=False):
        """Open an address in a window of a size."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": touch}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Page.navigate", url=url)

    def press(self, key, text=None):
        """Press a key of the keyboard."""
        codes = {"Enter": 13, "Escape": 27, "Tab": 9, "ArrowRight": 39}
        event = {"key": key, "code": key, "windowsVirtualKeyCode": codes.get(key, 0)}
        text = "\r" if key == "Enter" else text
        self.call(
            "Input.dispatchKeyEvent", type="keyDown", **event, **({"text": text} if text else {})
        )
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def type(self, text):
        """Type a text where the focus is."""
        self.call("Input.insertText", text=text)

    def move(self, x, y):
        """Move the mouse."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def picture(self, path):
        """Write what is seen to a PNG."""
        found = self.call("Page.captureScreenshot", format="png")
        Path(path).write_bytes(base64.b64decode(found["data"]))

    def _next(self):
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._reading], [], [], 60)
            assert ready, "the browser says nothing"
            part = os.read(self._reading, 1 << 16)
            assert part, "the browser has ended"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def _note(self, event):
        method, params = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.wrong.append(params["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.wrong.append(params["exceptionDetails"]["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.wrong.append(str(params["args"]))


@contextmanager
def browser(folder):
    """Run a browser with a profile in `folder`, and yield a tab."""
    theirs, ours = os.pipe(), os.pipe()
    command = ["bash", "-c", f'exec "$@" 3<&{theirs[0]} 4>&{ours[1]}', "bash", CHROMIUM]
    process = subprocess.Popen(
        [*command, *FLAGS, f"--user-data-dir={folder}"],
        pass_fds=(theirs[0], ours[1]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs[0])
    os.close(ours[1])
    try:
        yield Tab(ours[0], theirs[1])
    finally:
        process.terminate()
        process.wait(20)
        os.close(ours[0])
        os.close(theirs[1])
