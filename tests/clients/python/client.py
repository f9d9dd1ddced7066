"""The stock client, with functions for all tests."""

import queue
import re
from collections import defaultdict

import socketio

ANSWER_S = 30
"""How long an answer or an expected event may take. Long: only a failing test waits for it."""

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
"""The format of times in the contract."""

ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
"""The format of event ids, in rejections and in answers to `POST /api/emit`."""


class Client:
    """A connected client, for a `with` statement.

    The stock client handles each event in its own thread. So there is one queue for each event name.
    """

    def __init__(self, url, transports=None, token=None):
        self._url = url
        self._transports = transports
        self._auth = {"token": token} if token else None
        self.socket = socketio.Client(reconnection=False)
        self._arrived = defaultdict(queue.Queue)
        self.socket.on("*", lambda event, *args: self._arrived[event].put(args))

    def __enter__(self):
        self.socket.connect(self._url, auth=self._auth, transports=self._transports, wait_timeout=ANSWER_S)
        return self

    def __exit__(self, *_):
        self.socket.disconnect()

    def ask(self, event, data=None):
        """Emits `event` and returns the ack's argument; a tuple is more than one argument."""
        return self.socket.call(event, data, timeout=ANSWER_S)

    def emit(self, event, data=None):
        """Emits `event` without asking for an ack."""
        self.socket.emit(event, data)

    def next(self, event):
        """Returns the one argument of the next event of that name.

        The event may have arrived before the call.
        """
        (data,) = self.next_all(event)
        return data

    def next_all(self, event):
        """Returns all arguments of the next event of that name."""
        return self._arrived[event].get(timeout=ANSWER_S)

    def has_heard(self, event):
        """Whether an event of that name has arrived that `next` has not returned."""
        return not self._arrived[event].empty()


def assert_error(error, **expected):
    """Asserts that `error` has an id, a message, `retry`, `origin` and the expected members.

    It may also have details.

    Returns the details as pairs of path and rule.
    """
    assert ULID.fullmatch(error["id"])
    assert error["message"]
    assert error["retry"] in ("safe", "unsafe", "never")
    assert error["origin"] in ("host", "handler")
    common = ("id", "message", "details", "retry", "origin")
    assert {name: value for name, value in error.items() if name not in common} == expected
    return [(detail["path"], detail["rule"]) for detail in error.get("details", [])]


def assert_rejected(reply, **expected):
    """The same for an ack."""
    assert list(reply) == ["error"]
    return assert_error(reply["error"], **expected)
