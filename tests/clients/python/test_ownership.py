"""Rooms and ownership: what a user, an admin and a client without a token may join, see and change.

Each table has one column for each of CALLERS.
"""

import contextlib
from dataclasses import dataclass

import pytest
import requests
import socketio

from client import ANSWER_S, Client, assert_rejected
from host import Host
from tokens import WITH_TOKENS, token


@dataclass
class Caller:
    """Who asks. `user` and `token` are None without a token; `client` is the connection."""

    name: str
    user: str | None
    token: str | None
    client: Client | None = None


CALLERS = (
    Caller("user 7", "7", token("7", 600)),
    Caller("user 8", "8", token("8", 600)),
    Caller("an admin", "1", token("1", 600, ["admin"])),
    Caller("nobody", None, None),
)
"""The callers, in the order of the columns."""

DONE = "done"
FORBIDDEN = {"code": "forbidden"}
NOT_FOUND = {"code": "refused", "reason": "not_found"}
UNKNOWN = {"code": "refused", "reason": "unknown_event_type"}

SUBSCRIPTIONS = {
    # event_type: user 7, user 8, an admin, nobody
    "memory_logs": ("memory_logs", "memory_logs", "memory_logs", "memory_logs"),
    "mental_notes": ("mental_notes", "mental_notes", "mental_notes", "mental_notes"),
    "admin": (FORBIDDEN, FORBIDDEN, "admin", FORBIDDEN),
    "user": ("user_7", "user_8", "user_1", FORBIDDEN),
    "user_7": ("user_7", FORBIDDEN, FORBIDDEN, FORBIDDEN),
    "user_8": (FORBIDDEN, "user_8", FORBIDDEN, FORBIDDEN),
    "weather": (UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN),
}
"""What comes of a subscription: the room that the caller is in then, or an error."""

OWNERSHIP = (
    # user_id, user 7, user 8, an admin, nobody
    (7, DONE, FORBIDDEN, DONE, DONE),
    ("7", DONE, FORBIDDEN, DONE, DONE),
    ("07", FORBIDDEN, FORBIDDEN, DONE, DONE),
    (8, FORBIDDEN, DONE, DONE, DONE),
    ("1", FORBIDDEN, FORBIDDEN, DONE, DONE),
)
"""What comes of each operation on a record with this `user_id`.

Ownership limits users. A client without a token is none, so a host that lets it in lets it see and
change all records.
"""

LISTED = (
    ["7", 7],  # user 7
    ["8", 8],  # user 8
    ["8", "7", 8, 7],  # an admin
    ["8", "7", 8, 7],  # nobody
)
"""The owners of the records that a list without `user_id` has, newest first."""

OPERATIONS = ("create", "get", "update", "delete", "list")

NOUNS = {
    # noun: the room of all records, the path of the routes
    "memory_log": ("memory_logs", "/memory-logs"),
    "mental_note": ("mental_notes", "/mental-notes"),
}

MARKER = "memory_log_deleted"
"""An event that the business system of this test may emit to each of ROOMS."""

ROOMS = ("admin", "memory_logs", "mental_notes", "user_1", "user_2", "user_7", "user_8")


@pytest.fixture(scope="module")
def host():
    configuration = f'[[events]]\nevent = "{MARKER}"\nrooms = ["admin", "mental_notes"]\n'
    with Host(WITH_TOKENS | {"SOCKHOP_AUTH__ANONYMOUS": "true"}, configuration) as running:
        yield running


@pytest.fixture
def callers(host):
    """A connection of each of CALLERS."""
    with contextlib.ExitStack() as stack:
        yield [connected(stack, host, caller) for caller in CALLERS]


@pytest.mark.parametrize("caller", CALLERS, ids=lambda caller: caller.name)
@pytest.mark.parametrize("event_type", SUBSCRIPTIONS)
def test_a_subscription_and_its_end_twice_each(host, event_type, caller):
    outcome = SUBSCRIPTIONS[event_type][CALLERS.index(caller)]
    is_refused = not isinstance(outcome, str)
    room = event_type if is_refused else outcome
    # Leaving a room needs no right. But nobody has no room that `user` could mean.
    may_leave = event_type != "user" or caller.user is not None
    own = set() if caller.user is None else {f"user_{caller.user}"}

    with Client(host.url, token=caller.token) as client:
        assert_rooms(host, client, own)
        for _ in range(2):
            reply = client.ask("subscribe_event", {"event_type": event_type})
            if is_refused:
                assert_rejected(reply, **outcome, event="subscribe_event")
            else:
                assert reply == {"status": "subscribed", "event_type": event_type, "room": room}
            assert_rooms(host, client, own if is_refused else own | {room})
        for _ in range(2):
            reply = client.ask("unsubscribe_event", {"event_type": event_type})
            if may_leave:
                assert reply == {"status": "unsubscribed", "event_type": event_type, "room": room}
            else:
                assert_rejected(reply, **FORBIDDEN, event="unsubscribe_event")
            assert_rooms(host, client, own - {room})


def by_event(host, noun, caller, operation, data, expected):
    """Asks for an operation by an event, and asserts its outcome.

    Returns the reply, or None after a refusal.
    """
    event = f"{noun}_{operation}"
    reply = caller.client.ask(event, data)
    if expected is not DONE:
        assert_rejected(reply, **expected, event=event)
        return None
    assert "error" not in reply, reply
    return reply


def by_route(host, noun, caller, operation, data, expected):
    """The same by a request to a route."""
    _, path = NOUNS[noun]
    item = f"{path}/{data.get('id')}"
    changes = {name: value for name, value in data.items() if name != "id"}
    response = {
        "create": lambda: send(host, "POST", path, caller.token, json=data),
        "get": lambda: send(host, "GET", item, caller.token),
        "update": lambda: send(host, "PATCH", item, caller.token, json=changes),
        "delete": lambda: send(host, "DELETE", item, caller.token),
        "list": lambda: send(host, "GET", path, caller.token, params=data),
    }[operation]()
    answer = response.json()
    if expected is not DONE:
        assert_problem(response, 403 if expected is FORBIDDEN else 404, **expected)
        return None
    assert response.status_code == (201 if operation == "create" else 200), answer
    location = f"{path}/{answer['id']}" if operation == "create" else None
    assert response.headers.get("location") == location
    return answer


WAYS = (by_event, by_route)

each_noun = pytest.mark.parametrize("noun", NOUNS)
each_way = pytest.mark.parametrize("ask", WAYS, ids=lambda ask: ask.__name__)


@pytest.mark.parametrize("row", OWNERSHIP, ids=lambda row: f"user_id={row[0]!r}")
@each_way
@each_noun
def test_the_owner_of_a_record_decides(host, callers, noun, ask, row):
    user_id, *outcomes = row
    _, _, admin, _ = callers
    with Client(host.url, token=CALLERS[0].token) as everything:
        # It is in two of the rooms of the records of user 7, and receives each event once.
        everything.ask("subscribe_event", {"event_type": NOUNS[noun][0]})
        for operation in OPERATIONS:
            for caller, expected in zip(callers, outcomes, strict=True):
                record = create(host, noun, admin, user_id, "before")
                data = {
                    "create": {"user_id": user_id, "content": "after"},
                    "get": {"id": record["id"]},
                    "update": {"id": record["id"], "content": "after"},
                    "delete": {"id": record["id"]},
                    "list": {"user_id": user_id},
                }[operation]
                reply = ask(host, noun, caller, operation, data, expected)

                emitted, stored = effects(operation, record, reply)
                items = by_event(host, noun, admin, "list", {"user_id": user_id}, DONE)["items"]
                assert since(record, items) == stored
                owners = [other.client for other in callers if other.user == str(user_id)]
                for client in (everything, *owners):
                    # The stock client handles each event in a thread, so they may swap places.
                    created = [record] + [reply for kind, reply in emitted if kind == "created"]
                    arrived = [client.next(f"{noun}_created") for _ in created]
                    assert sorted(arrived, key=lambda record: record["id"]) == created
                    for kind, reply in emitted:
                        if kind != "created":
                            assert client.next(f"{noun}_{kind}") == reply
        for client in (everything, *(caller.client for caller in callers)):
            assert_silent(client, noun)


@each_way
@each_noun
def test_a_list_has_the_records_that_the_caller_may_see(host, callers, noun, ask):
    _, _, admin, _ = callers
    made = [create(host, noun, admin, user_id, "x") for user_id in (7, 8, "7", "8")]
    for caller, owners in zip(callers, LISTED, strict=True):
        items = ask(host, noun, caller, "list", {}, DONE)["items"]
        visible = [record for record in reversed(made) if record["user_id"] in owners]
        assert since(made[0], items) == visible
        assert [record["user_id"] for record in visible] == owners


@each_way
@each_noun
def test_a_record_that_does_not_exist_is_not_found_whoever_asks(host, callers, noun, ask):
    seven, _, admin, _ = callers
    deleted = create(host, noun, admin, 7, "x")
    by_event(host, noun, admin, "delete", {"id": deleted["id"]}, DONE)
    assert seven.client.next(f"{noun}_created") == deleted
    assert seven.client.next(f"{noun}_deleted") == {"id": deleted["id"]}
    for missing in (deleted["id"], 0, 2**52):
        for caller in callers:
            ask(host, noun, caller, "get", {"id": missing}, NOT_FOUND)
            ask(host, noun, caller, "update", {"id": missing, "content": "x"}, NOT_FOUND)
            ask(host, noun, caller, "delete", {"id": missing}, NOT_FOUND)
    for caller in callers:
        assert_silent(caller.client, noun)


@each_noun
def test_each_connection_of_a_user_receives_its_records_once(host, callers, noun):
    seven, _, admin, _ = callers
    with Client(host.url, token=seven.token) as subscribed:
        for event_type in ("user", "user_7", "memory_logs", "memory_logs", "mental_notes"):
            subscribed.ask("subscribe_event", {"event_type": event_type})
        created = create(host, noun, admin, 7, "a")
        changes = {"id": created["id"], "content": "b"}
        updated = by_event(host, noun, admin, "update", changes, DONE)
        deleted = by_event(host, noun, admin, "delete", {"id": created["id"]}, DONE)
        for client in (seven.client, subscribed):
            assert client.next(f"{noun}_created") == created
            assert client.next(f"{noun}_updated") == updated
            assert client.next(f"{noun}_deleted") == deleted
            assert_silent(client, noun)
        assert_silent(admin.client, noun)


def test_an_admin_that_gets_a_token_without_the_role_is_a_user_like_others(host, callers):
    seven = callers[0]
    with_role, without_role = token("2", 600, ["admin"]), token("2", 600)
    rooms = {"memory_logs", "mental_notes", "user_2"}
    with contextlib.ExitStack() as stack:
        former = connected(stack, host, Caller("a former admin", "2", with_role))

        def subscribe(event_type):
            return former.client.ask("subscribe_event", {"event_type": event_type})

        for event_type in ("admin", "memory_logs", "mental_notes"):
            subscribe(event_type)
        assert_rooms(host, former.client, {"admin", *rooms})

        former.token = without_role
        assert former.client.ask("authenticate", {"token": without_role}).keys() == {"expires_at"}
        assert_rooms(host, former.client, rooms)
        assert_rejected(subscribe("admin"), **FORBIDDEN, event="subscribe_event")
        for noun in NOUNS:
            record = create(host, noun, seven, 7, "x")["id"]
            for ask in WAYS:
                ask(host, noun, former, "create", {"user_id": 7, "content": "x"}, FORBIDDEN)
                ask(host, noun, former, "get", {"id": record}, FORBIDDEN)
                ask(host, noun, former, "update", {"id": record, "content": "x"}, FORBIDDEN)
                ask(host, noun, former, "delete", {"id": record}, FORBIDDEN)
                ask(host, noun, former, "list", {"user_id": 7}, FORBIDDEN)
                assert ask(host, noun, former, "list", {}, DONE)["items"] == []

        # The role alone does not bring it back into the room.
        former.token = with_role
        former.client.ask("authenticate", {"token": with_role})
        assert_rooms(host, former.client, rooms)
        assert subscribe("admin")["status"] == "subscribed"
        assert_rooms(host, former.client, {"admin", *rooms})
        for noun in NOUNS:
            for ask in WAYS:
                ask(host, noun, former, "list", {"user_id": 7}, DONE)


WRONG = {"expired": token("7", -60), "forged": f"{token('7', 600)}x", "not a token": "x"}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_client_with_a_wrong_token_is_refused_and_not_taken_for_nobody(host, wrong):
    refused, errors = socketio.Client(reconnection=False), []
    refused.on("connect_error", errors.append)
    with pytest.raises(socketio.exceptions.ConnectionError):
        refused.connect(host.url, auth={"token": wrong}, wait_timeout=ANSWER_S)
    assert errors == [{"message": "unauthorized"}]
    for _, path in NOUNS.values():
        created = send(host, "POST", path, wrong, json={"user_id": 7, "content": "x"})
        assert_problem(created, 401, code="unauthorized")
        assert_problem(send(host, "GET", path, wrong), 401, code="unauthorized")


def connected(stack, host, caller):
    """The caller with a connection, which ends with `stack`."""
    client = stack.enter_context(Client(host.url, token=caller.token))
    return Caller(caller.name, caller.user, caller.token, client)


def create(host, noun, caller, user_id, content):
    """Creates a record by event, which must not be refused."""
    return by_event(host, noun, caller, "create", {"user_id": user_id, "content": content}, DONE)


def since(first, items):
    """The records from `first` on; `items` are newest first."""
    return [record for record in items if record["id"] >= first["id"]]


def effects(operation, record, reply):
    """Asserts the reply to an operation on `record`, which is None after a refusal.

    Returns the events that tell of the operation, and what is stored afterwards, newest first.
    """
    if reply is None:
        return [], [record]
    if operation == "create":
        assert reply["id"] > record["id"]
        common = {"id": record["id"], "created_at": record["created_at"]}
        assert reply | common == record | {"content": "after"}
        return [("created", reply)], [reply, record]
    if operation == "update":
        assert reply == record | {"content": "after", "updated_at": reply["updated_at"]}
        return [("updated", reply)], [reply]
    if operation == "delete":
        assert reply == {"id": record["id"]}
        return [("deleted", reply)], []
    assert ([reply] if operation == "get" else since(record, reply["items"])) == [record]
    return [], [record]


def assert_rooms(host, client, rooms):
    """Asserts that the client is in these of ROOMS: it receives the MARKER of each, once."""
    markers = [{"event": MARKER, "data": {"id": id}, "room": room} for id, room in enumerate(ROOMS)]
    response = send(host, "POST", "/api/emit", host.key, json=markers)
    assert response.status_code == 202, response.text
    arrived = [ROOMS[client.next(MARKER)["id"]] for _ in rooms]
    assert sorted(arrived) == sorted(rooms)
    # The answer to a `ping` comes after all events that were sent before.
    client.ask("ping", {"timestamp": 0})
    assert not client.has_heard(MARKER)


def assert_silent(client, noun):
    """Asserts that no event about records has arrived that `next` has not returned."""
    client.ask("ping", {"timestamp": 0})
    for kind in ("created", "updated", "deleted"):
        assert not client.has_heard(f"{noun}_{kind}"), kind


def assert_problem(response, status, **expected):
    """Asserts that a response is a problem document with these members."""
    problem = response.json()
    assert (response.status_code, problem["status"]) == (status, status), problem
    assert response.headers["content-type"].startswith("application/problem+json")
    assert {name: problem[name] for name in ("code", "reason") if name in problem} == expected


def send(host, method, path, bearer, **request):
    """Sends a request, with a token or a key."""
    headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
    return requests.request(method, host.url + path, headers=headers, timeout=ANSWER_S, **request)
