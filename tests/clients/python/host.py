"""Starts the built host, and stops it.

The environment has the paths, as `cargo xtask test` sets them: SOCKHOP_BIN, SOCKHOP_PLUGINS_DIR,
SOCKHOP_GUESTS_DIR and SOCKHOP_COMPILED_DIR.
"""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import requests

START_S = 60
"""How long a host may take to start. Long: it may have to compile its plugins on a busy machine."""

STOP_S = 30
"""How long a stopping host may take. It promises 27 seconds."""

_LISTENING = re.compile(r"listening on (http://[\w.:\[\]]+)\s")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Host:
    """A running host with its own data directory, for a `with` statement.

    It has a `url` and a `key` (all scopes). `settings` are named as in the environment, and
    `configuration` is the text of `sockhop.toml`. With `guests`, it has its own plugin directory with these
    plugins that only tests load, and not the bundled ones.
    """

    url: str
    key: str

    def __init__(self, settings=None, configuration="", guests=None):
        self._settings = settings or {}
        self._configuration = configuration
        self._guests = guests

    def __enter__(self):
        for name in ("SOCKHOP_BIN", "SOCKHOP_PLUGINS_DIR"):
            if name not in os.environ:
                raise RuntimeError(f"{name} is not set; `cargo xtask test` sets it")
        self._directory = tempfile.TemporaryDirectory(prefix="sockhop-")
        try:
            Path(self._directory.name, "sockhop.toml").write_text(self._configuration)
            self._plugins = Path(os.environ["SOCKHOP_PLUGINS_DIR"])
            if self._guests is not None:
                self._plugins = Path(self._directory.name, "plugins")
                self._plugins.mkdir()
                for guest in self._guests:
                    self.add(guest)
            self._start("127.0.0.1:0")
        except BaseException:
            self._directory.cleanup()
            raise
        return self

    def __exit__(self, *_):
        try:
            self._stop()
        finally:
            self._directory.cleanup()

    def restart(self):
        """Stops the host by SIGTERM, and starts another one with its data on the same address."""
        self._stop()
        self._start(self.url.removeprefix("http://"))

    def add(self, guest):
        """Adds a plugin that only tests load, as the documentation recommends: by a rename."""
        unfinished = self._plugins / f".{guest}"
        shutil.copyfile(Path(os.environ["SOCKHOP_GUESTS_DIR"], f"{guest}.wasm"), unfinished)
        unfinished.rename(self._plugins / f"{guest}.wasm")

    def remove(self, guest):
        """Removes a plugin."""
        (self._plugins / f"{guest}.wasm").unlink()

    def reload(self, configuration):
        """Changes the configuration file, and reloads it. The new settings then apply."""
        Path(self._directory.name, "sockhop.toml").write_text(configuration)
        self.ask("POST", "/api/reload")

    def ask(self, method, path):
        """Returns the answer to a request of an operator."""
        headers = {"authorization": f"Bearer {self.key}"}
        answer = requests.request(method, self.url + path, headers=headers, timeout=START_S)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def plugins(self):
        """Returns the plugins by name, as operators see them."""
        return {plugin["name"]: plugin for plugin in self.ask("GET", "/api/plugins")}

    def log(self):
        """Returns the log so far."""
        return self._output

    def wait_for(self, condition, what):
        """Waits until `condition` returns something that is true, and returns that."""
        return self._wait_until(condition, what)

    def _start(self, listen):
        data = Path(self._directory.name, "data")
        arguments = ["--listen", listen, "--plugins", str(self._plugins), "--data", str(data)]
        self._lend_compiled(data)
        self._output = ""
        # The host must read neither a configuration of this machine nor the caller's settings.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SOCKHOP_")}
        # Each test runs with both implementations of Socket.IO.
        if implementation := os.environ.get("SOCKHOP_TEST_SOCKETIO"):
            environment["SOCKHOP_SERVER__SOCKETIO"] = implementation
        environment |= self._settings
        self._process = subprocess.Popen(
            [os.environ["SOCKHOP_BIN"], "serve", *arguments],
            cwd=self._directory.name,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.url = self._wait_until(lambda: (_LISTENING.search(self._output) or [None, None])[1], "listen")
            self._wait_until(lambda: requests.get(f"{self.url}/readyz", timeout=START_S).status_code == 200, "become ready")
            self.key = (data / "key").read_text().strip()
        except BaseException:
            self._process.kill()
            self._clean_up()
            raise

    def _lend_compiled(self, data):
        """Copies the code of the plugins that hosts of earlier tests have compiled, if there is any."""
        compiled = os.environ.get("SOCKHOP_COMPILED_DIR")
        if compiled is None:
            return
        cache = data / "cache"
        for directory in (data, cache):
            directory.mkdir(mode=0o700, exist_ok=True)
        for plugin in self._plugins.iterdir():
            digest = hashlib.sha256(plugin.read_bytes()).hexdigest()
            for entry in Path(compiled).glob(f"{digest}*"):
                if not (cache / entry.name).exists():
                    shutil.copyfile(entry, cache / entry.name)

    def _stop(self):
        self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            status = "nothing: it did not stop in time"
            self._process.kill()
        self._clean_up()
        assert status == 0, f"the host answered SIGTERM with {status}; its output:\n{self._output}"

    def _read(self):
        for line in self._process.stdout:
            self._output += _COLOUR.sub("", line)

    def _wait_until(self, condition, what):
        deadline = time.monotonic() + START_S
        while not (result := condition()):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the host did not {what}; its output:\n{self._output}")
            time.sleep(0.02)
        return result

    def _clean_up(self):
        self._process.wait()
        self._reader.join()
        self._process.stdout.close()
