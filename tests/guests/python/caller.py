"""Sends HTTP requests, as its events ask."""

import json

import wit_world
from componentize_py_types import Err
from wit_world.imports import http, registry


class WitWorld(wit_world.WitWorld):
    def register(self):
        registry.plugin("caller_python", "1.0.0", "Sends HTTP requests")
        registry.handles("call_python", json.dumps({"type": "string"}), json.dumps({"type": "object"}))

    def handle(self, event):
        """Answers with the status and the body, or with the code of the refusal."""
        request = http.Request("GET", json.loads(event.data), [], b"", None)
        try:
            response = http.send(request)
        except Err as refused:
            return json.dumps({"code": refused.value.code})
        return json.dumps({"status": response.status, "body": response.body.decode()})
