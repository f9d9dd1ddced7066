"""Whole messages of the stock Python client: several arguments, and bytes in acks."""

import queue
import time

import pytest

from client import ANSWER_S, Client, assert_rejected
from host import Host


@pytest.fixture(scope="module")
def url():
    with Host(guests=["parcel"]) as running:
        yield running.url


@pytest.fixture(scope="module")
def quiz():
    """The URL of a host whose plugin asks its clients."""
    with Host(guests=["quiz"]) as running:
        yield running.url


@pytest.mark.parametrize("transports", [["polling"], ["websocket"]], ids=["polling", "websocket"])
def test_several_arguments_go_in_and_out(url, transports):
    with Client(url, transports) as client:
        piece = {"user_id": 7, "name": "rook"}
        assert tuple(client.ask("move", (piece, 3))) == (True, 4)
        assert client.next_all("moved") == (piece, 3)
        assert tuple(client.ask("split", "a b c")) == ("a", "b", "c")
        assert client.ask("count", (1, [2, 3], "4")) == 3
        assert_rejected(client.ask("move", (piece,)), code="invalid_payload", event="move")


@pytest.mark.parametrize("transports", [["polling"], ["websocket"]], ids=["polling", "websocket"])
def test_bytes_come_back_in_acks_and_events(url, transports):
    with Client(url, transports) as client:
        arguments = (b"\x01\x02", {"deep": [b"\x03"]}, "text")
        assert tuple(client.ask("echo_all", arguments)) == arguments
        assert client.next_all("echoed") == arguments
        packed = client.ask("pack", {"sizes": [2, 1], "named": [1, 0]})
        assert packed == {"label": "parcel", "content": [b"\x07", b"\x07\x07"]}


def test_a_plugin_sees_what_the_client_sends_when_it_connects(url):
    client = Client(url)
    client.socket.connect(f"{url}?lang=de", auth={"device": "d7"}, wait_timeout=ANSWER_S)
    try:
        assert client.ask("handshake") == {"auth": {"device": "d7"}, "query": [["lang", "de"]]}
    finally:
        client.socket.disconnect()


@pytest.mark.parametrize("transports", [["polling"], ["websocket"]], ids=["polling", "websocket"])
def test_the_host_asks_for_acks_which_are_handled_in_order(quiz, transports):
    client = Client(quiz, transports)
    asked = queue.Queue()

    def question(number):
        asked.put(number)
        return number + 1

    client.socket.on("question", question)
    with client:
        to = client.ask("me")
        for number in range(200):
            client.emit("ask", {"to": to, "number": number, "timeout_ms": 30_000})
            assert asked.get(timeout=ANSWER_S) == number
            assert client.next("outcome") == {"number": number, "what": number + 1, "by": to, "rooms": []}
            assert client.next("seen") == f"answer {number}"


@pytest.mark.parametrize("transports", [["polling"], ["websocket"]], ids=["polling", "websocket"])
def test_an_answer_has_arguments_and_bytes(quiz, transports):
    client = Client(quiz, transports)
    client.socket.on("picture", lambda picture: (picture, {"deep": b"\x03"}, "text"))
    with client:
        to = client.ask("me")
        before = len(client.ask("log"))
        client.ask("ask_list", [to, 3])
        expected = [{"_placeholder": True, "num": 0}, {"deep": {"_placeholder": True, "num": 1}}, "text"]
        deadline = time.monotonic() + ANSWER_S
        while len(lines := client.ask("log")) == before:
            assert time.monotonic() < deadline
        assert lines[before:] == [{"context": 3, "what": expected, "attachments": [2, 1]}]
