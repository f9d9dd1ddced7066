"""Scenarios of the stock Python clients: `python stock.py URL SCENARIO TRANSPORTS sync|async`.

A scenario that fails ends with an error. It prints its progress for the test.
"""

import asyncio
import sys
import threading

import socketio

URL, SCENARIO, TRANSPORTS, KIND = sys.argv[1:]
# The default of `randomization_factor` makes some delays negative: the client would connect again
# before it has forgotten its old session.
OPTIONS = {"reconnection_delay": 0.02, "reconnection_delay_max": 0.05, "randomization_factor": 0}
TIMEOUT = 30
CONNECT = {
    "transports": TRANSPORTS.split(","),
    "auth": {},
    "namespaces": ["/", "/a"] if SCENARIO == "namespaces" else ["/"],
    "wait_timeout": TIMEOUT,
}
BLOB = bytes([0, 1, 254, 255]) * 1000


def say(line):
    print(line, flush=True)


def tell_news(number, *rest):
    # With recovery, the server adds the offset of the event, which is 11 characters long.
    is_offset = len(rest) == 1 and isinstance(rest[0], str) and len(rest[0]) == 11
    say(f"{number} and an offset" if is_offset else f"{number} and {rest}")


def sync():
    client = socketio.Client(**OPTIONS)
    connects = threading.Semaphore(0)
    disconnects = threading.Semaphore(0)
    left = threading.Semaphore(0)
    received = threading.Semaphore(0)

    @client.event
    def connect():
        connects.release()

    @client.event
    def disconnect(reason=None):
        disconnects.release()

    @client.event
    def ask(*args):
        return list(args), "yes"

    def call(*args):
        answer = client.call("answer", args, timeout=TIMEOUT)
        assert answer == (args if len(args) > 1 else args[0]), answer

    @client.event
    def news(number, *rest):
        tell_news(number, *rest)
        received.release()

    client.on("disconnect", lambda reason=None: left.release(), namespace="/a")
    client.connect(URL, **CONNECT)
    assert connects.acquire(timeout=TIMEOUT)
    say("connected")
    if SCENARIO == "talk":
        for _ in range(3):
            call(1)
            call("zwei", {"drei": [None, True]}, BLOB)
            client.sleep(0.05)
        client.disconnect()
    elif SCENARIO == "restart":
        assert disconnects.acquire(timeout=TIMEOUT)
        say("disconnected")
        assert connects.acquire(timeout=TIMEOUT)
        call(2)
        say("connected")
        client.disconnect()
    elif SCENARIO == "news":
        assert received.acquire(timeout=TIMEOUT)
        assert disconnects.acquire(timeout=TIMEOUT)
        say("disconnected")
        assert connects.acquire(timeout=TIMEOUT)
        call(4)
        say("connected")
        assert received.acquire(timeout=TIMEOUT)
        client.disconnect()
    elif SCENARIO == "namespaces":
        assert left.acquire(timeout=TIMEOUT)
        assert list(client.namespaces) == ["/"]
        call(3)
        client.disconnect()


async def asynchronous():
    client = socketio.AsyncClient(**OPTIONS)
    connects = asyncio.Semaphore(0)
    disconnects = asyncio.Semaphore(0)
    left = asyncio.Semaphore(0)
    received = asyncio.Semaphore(0)

    @client.event
    async def connect():
        connects.release()

    @client.event
    async def disconnect(reason=None):
        disconnects.release()

    @client.event
    async def ask(*args):
        return list(args), "yes"

    async def happens(semaphore):
        await asyncio.wait_for(semaphore.acquire(), TIMEOUT)

    async def call(*args):
        answer = await client.call("answer", args, timeout=TIMEOUT)
        assert answer == (args if len(args) > 1 else args[0]), answer

    @client.event
    async def news(number, *rest):
        tell_news(number, *rest)
        received.release()

    client.on("disconnect", lambda reason=None: left.release(), namespace="/a")
    await client.connect(URL, **CONNECT)
    await happens(connects)
    say("connected")
    if SCENARIO == "talk":
        for _ in range(3):
            await call(1)
            await call("zwei", {"drei": [None, True]}, BLOB)
            await asyncio.sleep(0.05)
        await client.disconnect()
    elif SCENARIO == "restart":
        await happens(disconnects)
        say("disconnected")
        await happens(connects)
        await call(2)
        say("connected")
        await client.disconnect()
    elif SCENARIO == "news":
        await happens(received)
        await happens(disconnects)
        say("disconnected")
        await happens(connects)
        await call(4)
        say("connected")
        await happens(received)
        await client.disconnect()
    elif SCENARIO == "namespaces":
        await happens(left)
        assert list(client.namespaces) == ["/"]
        await call(3)
        await client.disconnect()


if KIND == "sync":
    sync()
else:
    asyncio.run(asynchronous())
