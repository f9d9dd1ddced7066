"""The plugin `forward`: handlers behind a FastAPI application move one by one into a plugin.

The application and the first configuration are those of `plugins/README.md`.
"""

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from client import ANSWER_S, Client, assert_rejected
from host import Host

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

README = Path(__file__).parents[3] / "plugins" / "README.md"


def block(language):
    """Returns the code block of the document in this language."""
    (code,) = re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)
    return code


class Backend:
    """The application, run by uvicorn on a free port, for a `with` statement."""

    def __init__(self, directory, more=""):
        Path(directory, "backend.py").write_text(block("python") + more)
        self._directory = directory
        # The socket is bound here, and inherited, so that no other process can take its port.
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]

    def __enter__(self):
        descriptor = self._socket.fileno()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "backend:app", "--fd", str(descriptor)],
            cwd=self._directory,
            pass_fds=[descriptor],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        # A connection waits in the queue of the socket until the application accepts it.
        assert requests.get(f"http://127.0.0.1:{self.port}/docs", timeout=ANSWER_S).status_code == 200
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        """Ends the application, and closes its port. Its log is then in `log`."""
        if self._socket.fileno() == -1:
            return
        self._process.terminate()
        self.log, _ = self._process.communicate(timeout=ANSWER_S)
        self._socket.close()


def configuration(port, forwarded, moved):
    """Returns the configuration of the document, with these events alone."""
    settings = tomllib.loads(block("toml").replace("127.0.0.1:8000", f"127.0.0.1:{port}"))
    forward = settings["plugins"]["forward"]
    events = json.loads(forward["config"]["events"])
    assert sorted(events) == ["enter", "say"]
    events = {event: schemas for event, schemas in events.items() if event in forwarded}
    forward["config"]["events"] = json.dumps(events)
    lines = [f"[plugins.forward]\noutbound = {json.dumps(forward['outbound'])}", "[plugins.forward.config]"]
    lines += [f"{name} = {json.dumps(value)}" for name, value in forward["config"].items()]
    lines += ["[plugins.moved.config]", f"events = {json.dumps(' '.join(moved))}"]
    return "\n".join(lines)


def refusal(host, plugin):
    """Returns why the host does not serve the plugin."""
    return ((host.plugins().get(plugin) or {}).get("last_error") or {}).get("reason", "")


def assert_chat(ada, bob):
    """The scenario. It is the same wherever the handlers are."""
    for client, name in ((ada, "Ada"), (bob, "Bob")):
        assert client.ask("enter", {"name": name}) == {"room": "chat"}
    assert ada.next("entered") == {"name": "Bob"}
    assert ada.ask("say", {"text": "Grüße"}) == {"length": 5}
    for client in (ada, bob):
        assert client.next("said") == {"text": "Grüße"}
    error = bob.ask("say", {"text": ""})
    assert_rejected(error, code="refused", event="say", reason="empty")
    assert error["error"]["message"] == "say something"
    # What Ada has heard twice or wrongly would be in front of this.
    assert bob.ask("say", {"text": "bye"}) == {"length": 3}
    for client in (ada, bob):
        assert client.next("said") == {"text": "bye"}
        assert not client.has_heard("error")


def assert_served(host, forwarded):
    """The scenario with new clients, and the number of its events that are forwarded."""
    calls = lambda: host.plugins().get("forward", {"calls": 0})["calls"]
    before = calls()
    with Client(host.url) as ada, Client(host.url) as bob:
        assert_chat(ada, bob)
    assert calls() - before == forwarded


def test_handlers_move_from_a_backend_into_a_plugin_and_clients_see_no_difference(tmp_path):
    with Backend(tmp_path) as backend:
        port = backend.port
        with Host(configuration=configuration(port, ["enter", "say"], ["enter"]), guests=["forward"]) as host:
            assert_served(host, 5)
            # A client that stays connected, and in its room.
            with Client(host.url) as stays:
                stays.ask("enter", {"name": "Cleo"})
                # The new plugin is loaded first, and waits until the event is free.
                host.add("moved")
                host.wait_for(lambda: "plugin `forward`" in refusal(host, "moved"), "refuse it")
                assert_served(host, 5)
                host.reload(configuration(port, ["say"], ["enter"]))
                assert_served(host, 3)
                host.reload(configuration(port, [], ["enter", "say"]))
                assert_served(host, 0)
                host.remove("forward")
                host.wait_for(lambda: "forward" not in host.plugins(), "remove it")
                # Nothing needs the backend any more.
                backend.end()
                assert_served(host, 0)
                assert stays.ask("say", {"text": "still here"}) == {"length": 10}
                heard = [stays.next("said") for _ in range(9)]
                assert heard == [{"text": "Grüße"}, {"text": "bye"}] * 4 + [{"text": "still here"}]
    # All events that the backend has got: twice five, Cleo's, and three.
    assert backend.log.count('"POST /events HTTP/1.1" 200') == 14, backend.log


def test_a_backend_that_is_away_is_unavailable_and_serves_again_when_it_is_back(tmp_path):
    with Backend(tmp_path) as first:
        port = first.port
        breaker = "[limits]\nbreaker_failures = 1\nbreaker_calls = 1\n"
        settings = breaker + configuration(port, ["enter", "say"], [])
        with Host(configuration=settings, guests=["forward"]) as host, Client(host.url) as client:
            assert client.ask("enter", {"name": "Ada"}) == {"room": "chat"}
            first.end()
            for _ in range(10):
                error = client.ask("say", {"text": "hello"})
                assert_rejected(error, code="unavailable", event="say")
                # From the handler: the breaker has not opened.
                assert (error["error"]["retry"], error["error"]["origin"]) == ("safe", "handler")
            with Backend(tmp_path) as second:
                host.reload(breaker + configuration(second.port, ["enter", "say"], []))
                assert client.ask("say", {"text": "hello"}) == {"length": 5}
                assert client.next("said") == {"text": "hello"}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("{'reply': 1, 'rooms': []}", "unknown field `rooms`"), ("{'emits': [{'event': 'spoken'}]}", "undeclared")],
)
def test_an_answer_that_is_wrong_is_a_refusal_and_the_log_says_why(tmp_path, answer, expected):
    with Backend(tmp_path, f"\n@on\ndef say(event):\n    return {answer}\n") as backend:
        settings = configuration(backend.port, ["enter", "say"], [])
        with Host(configuration=settings, guests=["forward"]) as host, Client(host.url) as client:
            error = client.ask("say", {"text": "hello"})
            assert_rejected(error, code="refused", event="say", reason="backend_failed")
            host.wait_for(lambda: expected in host.log(), "log it")
