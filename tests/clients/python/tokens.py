"""Tokens of users, and the settings of a host that accepts them."""

import base64
import hashlib
import hmac
import json
import time

SECRET = "a secret that has more than thirty-two bytes"

WITH_TOKENS = {
    "SOCKHOP_AUTH__MODE": "jwt",
    "SOCKHOP_AUTH__GRACE_MS": "2000",
    "SOCKHOP_AUTH__KEYS": f'[{{algorithm="HS256",secret="{SECRET}"}}]',
}
"""Settings of a host that accepts the tokens of `token`."""


def token(sub, seconds, roles=()):
    """A token of `sub` that expires after `seconds`."""
    now = int(time.time())
    claims = {"sub": sub, "roles": list(roles), "iat": now, "exp": now + seconds}
    signed = ".".join(_encoded(json.dumps(part).encode()) for part in ({"alg": "HS256"}, claims))
    return f"{signed}.{_encoded(hmac.digest(SECRET.encode(), signed.encode(), hashlib.sha256))}"


def _encoded(part):
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()
