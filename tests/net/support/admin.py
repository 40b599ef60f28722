"""The admin API, as an operator's program calls it."""
import http.client
import json

from .wait import SLOW


class Admin:
    """connect(address): a socket to a daemon that is elsewhere."""

    def __init__(self, daemon, connect=None):
        self.daemon, self.connect = daemon, connect

    def raw(self, method, path, body=None, key=None, timeout=30.0):
        """(status, bytes); body: bytes, or what is made JSON of."""
        host, port = self.daemon.address.rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=timeout * SLOW)
        if body is not None and not isinstance(body, (bytes, str)):
            body = json.dumps(body)
        headers = {"Authorization": "Bearer " + (self.daemon.admin_key if key is None else key)}
        try:
            if self.connect:
                connection.sock = self.connect((host, int(port)))
            connection.request(method, path, body=body, headers=headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def call(self, method, path, body=None, expect=200):
        """The answer, which has this status."""
        status, answer = self.raw(method, path, body)
        assert status == expect, (method, path, status, answer)
        return json.loads(answer) if answer else None

    def error(self, method, path, body, expect):
        """The text of a refusal."""
        answer = self.call(method, path, body, expect)
        assert set(answer) == {"error"} and answer["error"], answer
        return answer["error"]
