"""The HTTP routes of plugins, and their description."""

import requests
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from client import Client


def test_the_description_of_the_routes_passes_the_validator_of_openapi(host):
    document = requests.get(f"{host.url}/api/openapi.json", timeout=30).json()
    assert document["openapi"] == "3.1.0"
    validate(document, cls=OpenAPIV31SpecValidator)
    assert set(document["paths"]["/memory-logs/{id}"]) == {"get", "patch", "delete"}


def test_a_record_that_is_created_over_http_reaches_a_subscriber(host):
    with Client(host.url) as client:
        client.ask("subscribe_event", {"event_type": "memory_logs"})
        answer = requests.post(f"{host.url}/memory-logs", json={"user_id": 7, "content": "tea"}, timeout=30)
        assert (answer.status_code, answer.headers["location"]) == (201, f"/memory-logs/{answer.json()['id']}")
        assert client.next("memory_log_created") == answer.json()
        assert requests.get(host.url + answer.headers["location"], timeout=30).json() == answer.json()
