"""Clients with tokens: who they are, and what happens when a token is missing or expires."""

import os
import queue
import threading

import pytest
import socketio

from client import ANSWER_S
from host import Host
from tokens import WITH_TOKENS, token

TRANSPORTS = (["polling"], ["websocket"], ["polling", "websocket"])


@pytest.mark.parametrize("transports", TRANSPORTS, ids="+".join)
def test_a_client_is_the_user_of_its_token_and_without_a_valid_one_it_is_refused(transports):
    with Host(WITH_TOKENS) as host:
        client, greetings = socketio.Client(reconnection=False), queue.Queue()
        client.on("connected", greetings.put)
        client.connect(host.url, auth={"token": token("7", 600)}, transports=transports, wait_timeout=ANSWER_S)
        assert greetings.get(timeout=ANSWER_S)["user_id"] == "7"
        client.disconnect()
        for auth in (None, {"token": "x"}, {"token": token("7", -60)}):
            refused, errors = socketio.Client(reconnection=False), []
            refused.on("connect_error", errors.append)
            with pytest.raises(socketio.exceptions.ConnectionError):
                refused.connect(host.url, auth=auth, transports=transports, wait_timeout=ANSWER_S)
            assert errors == [{"message": "unauthorized"}]


@pytest.mark.skipif(
    os.environ.get("SOCKHOP_TEST_SOCKETIO") == "socketioxide",
    reason="the library ends sessions by a packet after which Python clients do not return",
)
@pytest.mark.parametrize("transports", TRANSPORTS, ids="+".join)
def test_a_client_whose_token_expires_is_told_and_returns_with_a_new_one(transports):
    with Host(WITH_TOKENS) as host:
        seconds = iter([1])
        client = socketio.Client(reconnection_delay=0.2, reconnection_delay_max=0.4, randomization_factor=0)
        connects, told = threading.Semaphore(0), threading.Event()
        client.on("connect", connects.release)
        client.on("error", lambda error: told.set() if error["code"] == "unauthorized" else None)
        client.connect(
            host.url,
            auth=lambda: {"token": token("7", next(seconds, 600))},
            transports=transports,
            wait_timeout=ANSWER_S,
        )
        try:
            assert connects.acquire(timeout=ANSWER_S)
            assert told.wait(ANSWER_S)
            # After the grace period.
            assert connects.acquire(timeout=2 * ANSWER_S)
            assert client.call("ping", {"timestamp": 2}, timeout=ANSWER_S)["timestamp"] == 2
        finally:
            client.disconnect()
