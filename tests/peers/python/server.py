"""A peer in the benchmark: the events of Sockhop's bundled plugins on python-socketio, mounted in a FastAPI app, with Pydantic models.

    python server.py [--port N] [--data DIR]

This is the stack that Sockhop's events come from, tuned as its own documentation advises, and no further: one process under uvicorn on
uvloop, HTTP by httptools, WebSockets by websockets; no compression of messages, as in the Node peer; no WebSocket pings beside those of
Engine.IO; no access log.

Records go to SQLite, one commit each, with a write-ahead log and `synchronous = NORMAL`. They are written on the event loop: such a commit
seldom waits for the disk, and handing each to a thread would cost more than it takes.
"""

import argparse
import sqlite3
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import socketio
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, ValidationError

ROOMS = {"memory_logs", "mental_notes"}
"""Rooms that clients may subscribe to, by event type."""

ack_wanted: ContextVar[bool] = ContextVar("ack_wanted")
"""Whether the event that is being handled asked for an ack."""


class SocketServer(socketio.AsyncServer):
    """python-socketio tells no handler whether an ack was asked for, which decides how a rejection is told; so this keeps it."""

    async def _handle_event_internal(self, server, sid, eio_sid, data, namespace, id):
        ack_wanted.set(id is not None)
        await super()._handle_event_internal(server, sid, eio_sid, data, namespace, id)


# Always connecting puts the answer to a connection before `connected`, which the connect handler
# emits.
sio = SocketServer(async_mode="asgi", always_connect=True)
app = FastAPI()
app.mount("/", socketio.ASGIApp(sio))


class Payload(BaseModel):
    model_config = ConfigDict(strict=True)


class Ping(Payload):
    timestamp: int | float


class Subscribe(Payload):
    event_type: str


class MemoryLogCreate(Payload):
    user_id: int | str
    content: str = Field(min_length=1, max_length=10_000)


class Echo(Payload):
    data: Any


class Logs:
    """The record store, in a file in `directory`, or in memory without one."""

    def __init__(self, directory: Path | None):
        if directory:
            directory.mkdir(parents=True, exist_ok=True)
        # Without an isolation level every statement is a transaction of its own.
        self._db = sqlite3.connect(directory / "records.db" if directory else ":memory:", isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        # The owner's column has no type, so that numbers and texts stay what they are.
        self._db.execute("CREATE TABLE IF NOT EXISTS memory_logs (id INTEGER PRIMARY KEY, user_id, content TEXT, created_at TEXT)")

    def create(self, log: MemoryLogCreate) -> dict:
        created_at = now()
        row = (log.user_id, log.content, created_at)
        id = self._db.execute("INSERT INTO memory_logs (user_id, content, created_at) VALUES (?, ?, ?)", row).lastrowid
        return {"id": id, "user_id": log.user_id, "content": log.content, "created_at": created_at}


def on(event: str, model: type[Payload]):
    """Has a coroutine serve `event` where its one argument is a `model`. What it returns answers the ack."""

    def register(handle):
        async def serve(sid, *args):
            if len(args) != 1:
                return await reject(sid, code="invalid_payload", message=f"takes one argument, not {len(args)}", event=event)
            try:
                payload = model.model_validate(args[0])
            except ValidationError as invalid:
                return await reject(sid, code="invalid_payload", message=describe(invalid), event=event)
            return await handle(sid, payload)

        sio.on(event, serve)
        return handle

    return register


async def reject(sid: str, **error) -> dict | None:
    """The answer with this error; where no ack was asked for, an event instead."""
    if ack_wanted.get():
        return {"error": error}
    await sio.emit("error", error, to=sid)


def describe(invalid: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in invalid.errors())


def now() -> str:
    """The time as the contract writes it: RFC 3339 in UTC, with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@sio.event
async def connect(sid, _environ):
    connected = {"sid": sid, "connection_id": str(uuid4()), "user_id": None, "server_time": now()}
    await sio.emit("connected", connected, to=sid)


@on("ping", Ping)
async def ping(sid, ping: Ping):
    pong = {"timestamp": ping.timestamp, "server_time": now()}
    await sio.emit("pong", pong, to=sid)
    return pong


@on("subscribe_event", Subscribe)
async def subscribe(sid, subscribe: Subscribe):
    room = subscribe.event_type
    if room not in ROOMS:
        message = f"there is no event type {room}"
        return await reject(sid, code="refused", reason="unknown_event_type", message=message, event="subscribe_event")
    await sio.enter_room(sid, room)
    return {"status": "subscribed", "event_type": room, "room": room}


@on("memory_log_create", MemoryLogCreate)
async def create_memory_log(_sid, create: MemoryLogCreate):
    log = app.state.logs.create(create)
    await sio.emit("memory_log_created", log, to=["memory_logs", f"user_{create.user_id}"])
    return log


@on("echo", Echo)
async def echo(_sid, echo: Echo):
    return {"data": echo.data}


class Server(uvicorn.Server):
    """Says where it listens once it does."""

    async def startup(self, sockets=None):
        await super().startup(sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        print(f"listening on http://127.0.0.1:{port}", flush=True)


def main():
    parser = argparse.ArgumentParser(description="A peer in the benchmark: python-socketio in FastAPI under uvicorn")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--data", type=Path, help="directory for the records; without it they stay in memory")
    options = parser.parse_args()

    app.state.logs = Logs(options.data)
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=options.port,
        loop="uvloop",
        http="httptools",
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        ws_ping_interval=None,
        log_level="warning",
        access_log=False,
        # Seconds. A held poll would otherwise keep the server until its next Engine.IO ping.
        timeout_graceful_shutdown=1,
    )
    Server(config).run()


if __name__ == "__main__":
    main()
