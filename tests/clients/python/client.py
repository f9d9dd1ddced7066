"""The stock client, with what every test asks of it."""

import queue
import re
from collections import defaultdict

import socketio

ANSWER_S = 30
"""How long an answer or an expected event may take: wide, since it is waited for only where something is wrong."""

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
"""How the contract writes times."""

ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
"""Ids of events, as rejections and `POST /api/emit` carry them."""


class Client:
    """A connected client, for a `with` statement.

    The stock client handles each event in a thread of its own, so what arrives is put into one queue per event name.
    """

    def __init__(self, url, transports=None):
        self._url = url
        self._transports = transports
        self.socket = socketio.Client(reconnection=False)
        self._arrived = defaultdict(queue.Queue)
        self.socket.on("*", lambda event, *args: self._arrived[event].put(args))

    def __enter__(self):
        self.socket.connect(self._url, transports=self._transports, wait_timeout=ANSWER_S)
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
        """The one argument of the next event of that name, which may have arrived before the call."""
        (data,) = self._arrived[event].get(timeout=ANSWER_S)
        return data

    def has_heard(self, event):
        """Whether an event of that name arrived that `next` has not returned."""
        return not self._arrived[event].empty()


def assert_error(error, **expected):
    """Asserts that `error` has the expected members beside an id, a message for people and details; returns the details as pairs."""
    assert ULID.fullmatch(error["id"])
    assert error["message"]
    assert {name: value for name, value in error.items() if name not in ("id", "message", "details")} == expected
    return [(detail["path"], detail["rule"]) for detail in error.get("details", [])]


def assert_rejected(reply, **expected):
    """The same for an ack."""
    assert list(reply) == ["error"]
    return assert_error(reply["error"], **expected)
