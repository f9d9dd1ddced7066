"""The stock Python client against the built host: the main parts of the contract.

The JavaScript tests check all of it.
"""

import pytest
import requests

from client import ANSWER_S, TIME, ULID, Client, assert_error, assert_rejected


def test_a_new_client_is_greeted_with_its_own_socket_id(host):
    with Client(host.url) as client:
        greeting = client.next("connected")
        assert set(greeting) == {"sid", "connection_id", "user_id", "server_time"}
        assert greeting["sid"] == client.socket.get_sid()
        assert greeting["user_id"] is None
        assert TIME.fullmatch(greeting["server_time"])
        assert greeting["connection_id"] not in ("", greeting["sid"])


def test_a_ping_is_answered_by_a_pong_and_by_an_ack_with_the_same_object(host):
    with Client(host.url) as client:
        reply = client.ask("ping", {"timestamp": 1.5})
        assert set(reply) == {"timestamp", "server_time"}
        assert reply["timestamp"] == 1.5
        assert client.next("pong") == reply


@pytest.mark.parametrize("transports", [None, ["polling"], ["websocket"]], ids=["default", "polling", "websocket"])
def test_a_subscriber_receives_every_change_of_a_record(host, transports):
    with Client(host.url, transports) as sender, Client(host.url, transports) as subscriber:
        subscribed = subscriber.ask("subscribe_event", {"event_type": "memory_logs"})
        assert subscribed == {"status": "subscribed", "event_type": "memory_logs", "room": "memory_logs"}

        created = sender.ask("memory_log_create", {"user_id": "python", "content": "first"})
        assert set(created) == {"id", "user_id", "content", "created_at"}
        assert subscriber.next("memory_log_created") == created

        updated = sender.ask("memory_log_update", {"id": created["id"], "content": "second"})
        assert updated == {**created, "content": "second", "updated_at": updated["updated_at"]}
        assert subscriber.next("memory_log_updated") == updated
        assert updated in sender.ask("memory_log_list", {"user_id": "python"})["items"]

        assert sender.ask("memory_log_delete", {"id": created["id"]}) == {"id": created["id"]}
        assert subscriber.next("memory_log_deleted") == {"id": created["id"]}

        unsubscribed = subscriber.ask("unsubscribe_event", {"event_type": "memory_logs"})
        assert unsubscribed == {"status": "unsubscribed", "event_type": "memory_logs", "room": "memory_logs"}
        assert not subscriber.has_heard("memory_log_created")
        assert not sender.has_heard("memory_log_created")


def test_an_update_keeps_fields_that_it_does_not_name_and_clears_those_that_are_none(host):
    with Client(host.url) as client:
        note = client.ask("mental_note_create", {"user_id": 7, "title": "T", "content": "text", "tags": ["a"]})
        changed = client.ask("mental_note_update", {"id": note["id"], "title": None})
        assert changed.get("title") is None
        assert (changed["content"], changed["tags"]) == ("text", ["a"])


def test_a_rejection_has_a_stable_code(host):
    with Client(host.url) as client:
        missing = client.ask("memory_log_create", {"user_id": 7})
        assert assert_rejected(missing, code="invalid_payload", event="memory_log_create") == [("/content", "required")]
        assert_rejected(client.ask("ping", ({"timestamp": 1}, 2)), code="invalid_payload", event="ping")
        assert_rejected(client.ask("no_such_event"), code="unknown_event", event="no_such_event")
        assert_rejected(client.ask("memory_log_delete", {"id": 2**52}), code="refused", reason="not_found", event="memory_log_delete")
        assert_rejected(client.ask("subscribe_event", {"event_type": "admin"}), code="forbidden", event="subscribe_event")
        assert_rejected(client.ask("ping", {"timestamp": 1, "padding": "x" * 200 * 1024}), code="too_large", event="ping")
        assert client.ask("ping", {"timestamp": 2})["timestamp"] == 2


def test_without_an_ack_a_rejection_is_an_error_event(host):
    with Client(host.url) as client:
        client.emit("memory_log_create", {"user_id": 7})
        assert assert_error(client.next("error"), code="invalid_payload", event="memory_log_create") == [("/content", "required")]


def test_a_business_system_emits_over_http(host):
    record = {"id": 1, "user_id": 7, "content": "from outside", "created_at": "2026-01-31T09:30:00.000Z"}
    with Client(host.url) as subscriber:
        subscriber.ask("subscribe_event", {"event_type": "memory_logs"})
        response = emit(host, {"event": "memory_log_created", "data": record})
        assert response.status_code == 202
        answer = response.json()
        assert ULID.fullmatch(answer["id"])
        assert (sorted(answer["rooms"]), answer["receivers"]) == (["memory_logs", "user_7"], 1)
        assert subscriber.next("memory_log_created") == record


def test_a_refused_emit_of_a_business_system_is_a_problem_document(host):
    body = {"event": "memory_log_created", "data": {"id": 1}, "room": "memory_logs"}
    for response, status, code in [
        (emit(host, body, key="wrong"), 401, "unauthorized"),
        (emit(host, {**body, "event": "no_such_event"}), 404, "unknown_event"),
        (emit(host, body), 422, "invalid_payload"),
    ]:
        assert response.status_code == status
        assert response.headers["content-type"].startswith("application/problem+json")
        assert (response.json()["status"], response.json()["code"]) == (status, code)


def emit(host, body, key=None):
    """`POST /api/emit`, with the host's own key unless another is given."""
    return requests.post(f"{host.url}/api/emit", json=body, headers={"Authorization": f"Bearer {key or host.key}"}, timeout=ANSWER_S)
