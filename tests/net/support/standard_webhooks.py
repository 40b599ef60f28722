"""Signatures of deliveries by the text of Standard Webhooks 1.0.0, with nothing but Python's own library."""
import base64
import hashlib
import hmac
import os
import time

# The specification's own example.
VECTOR = {"secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
          "timestamp": "1614265330", "body": b'{"test": 2432232314}',
          "signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="}


def new_secret():
    return "whsec_" + base64.b64encode(os.urandom(32)).decode()


def sign(secret, message_id, timestamp, body):
    key = base64.b64decode(secret[len("whsec_"):], validate=True)
    content = message_id.encode() + b"." + timestamp.encode() + b"." + body
    return "v1," + base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()


def fault(secret, headers, body, now=None, tolerance=300):
    """None when a receiver that knows this secret takes it; else why not."""
    message_id, timestamp = headers.get("webhook-id"), headers.get("webhook-timestamp")
    signatures = headers.get("webhook-signature", "").split(" ")
    if not message_id or "." in message_id:
        return "no usable webhook-id"
    if not timestamp or abs(int(timestamp) - (time.time() if now is None else now)) > tolerance:
        return "too old, or from the future"
    expected = sign(secret, message_id, timestamp, body)
    if not any(hmac.compare_digest(expected, s) for s in signatures if s.startswith("v1,")):
        return "no signature is right"
    return None
