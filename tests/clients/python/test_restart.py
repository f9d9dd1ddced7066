"""A host that gets SIGTERM and is started again: the stock Python clients return by themselves."""

import asyncio
import os
import threading

import pytest
import socketio

from client import ANSWER_S
from host import Host

pytestmark = pytest.mark.skipif(
    os.environ.get("SOCKHOP_TEST_SOCKETIO") == "socketioxide",
    reason="the library ends sessions by a packet after which Python clients do not return",
)

TRANSPORTS = (["polling"], ["websocket"], ["polling", "websocket"])

SETTINGS = {"SOCKHOP_LIMITS__SHUTDOWN_UNREADY_MS": "1"}

OPTIONS = {"reconnection_delay": 0.2, "reconnection_delay_max": 0.4, "randomization_factor": 0}
"""Without a random part, which would make some of these short delays negative."""


def test_every_client_returns_by_itself_to_a_host_that_was_restarted_and_is_served():
    with Host(SETTINGS) as host:
        clients = []
        try:
            for transports in TRANSPORTS:
                client, connects = socketio.Client(**OPTIONS), threading.Semaphore(0)
                client.on("connect", connects.release)
                client.connect(host.url, transports=transports, wait_timeout=ANSWER_S)
                clients.append((client, connects))
                assert connects.acquire(timeout=ANSWER_S)
            host.restart()
            for (client, connects), transports in zip(clients, TRANSPORTS):
                assert connects.acquire(timeout=ANSWER_S), transports
                reply = client.call("ping", {"timestamp": 2}, timeout=ANSWER_S)
                assert reply["timestamp"] == 2, transports
        finally:
            for client, _ in clients:
                client.disconnect()


def test_every_asynchronous_client_returns_by_itself_and_is_served():
    async def run(host):
        clients = []
        try:
            for transports in TRANSPORTS:
                client, connects = socketio.AsyncClient(**OPTIONS), asyncio.Semaphore(0)
                client.on("connect", connects.release)
                await client.connect(host.url, transports=transports, wait_timeout=ANSWER_S)
                clients.append((client, connects))
                await asyncio.wait_for(connects.acquire(), ANSWER_S)
            await asyncio.to_thread(host.restart)
            for (client, connects), transports in zip(clients, TRANSPORTS):
                await asyncio.wait_for(connects.acquire(), ANSWER_S)
                reply = await client.call("ping", {"timestamp": 2}, timeout=ANSWER_S)
                assert reply["timestamp"] == 2, transports
        finally:
            for client, _ in clients:
                await client.disconnect()

    with Host(SETTINGS) as host:
        asyncio.run(run(host))
