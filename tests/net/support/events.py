"""Custom events, as the program of a user posts them."""
import http.client
import json

from .wait import SLOW


class Poster:
    """One connection, kept; post() -> (status, the answer, headers)."""

    def __init__(self, daemon, uid, token=None):
        self.daemon = daemon
        self.token = daemon.admin_key + uid if token is None else token
        self.connection = None

    def post(self, kind, event, key=None, raw=False):
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = "Bearer " + self.token
        if key is not None:
            headers["Idempotency-Key"] = key
        if self.connection is None:
            host, port = self.daemon.address.rsplit(":", 1)
            self.connection = http.client.HTTPConnection(host, int(port), timeout=30 * SLOW)
        try:
            self.connection.request("POST", "/v1/events/" + kind, event if raw else json.dumps(event).encode(), headers)
            response = self.connection.getresponse()
            body = response.read()
        except (http.client.HTTPException, OSError):
            self.close()
            raise
        if response.will_close:
            self.close()
        try:
            answer = json.loads(body)
        except ValueError:
            answer = body
        return response.status, answer, {k.lower(): v for k, v in response.getheaders()}

    def accepted(self, kind, event, endpoints=None, key=None):
        status, answer, _ = self.post(kind, event, key)
        assert status == 202, (status, answer)
        assert set(answer) == {"id", "endpoints"}
        if endpoints is not None:
            assert answer["endpoints"] == endpoints, answer
        return answer

    def close(self):
        if self.connection is not None:
            self.connection.close()
        self.connection = None
