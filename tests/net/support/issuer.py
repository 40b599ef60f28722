"""An issuer of id tokens: keys of its own, a key set over HTTP that can misbehave, tokens good and bad."""
import base64
import hashlib
import hmac
import json
import time

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from .receiver import Answer, Receiver

PROJECT = "scenario-project"
ISSUER = "https://securetoken.google.com/" + PROJECT
PATH = "/keys"
_made = {}


def key(name, bits=2048):
    """A private key, made once per run."""
    if (name, bits) not in _made:
        _made[name, bits] = rsa.generate_private_key(65537, bits)
    return _made[name, bits]


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _number(n):
    return b64(n.to_bytes((n.bit_length() + 7) // 8, "big"))


def jwk(kid, private, **more):
    public = private.public_key().public_numbers()
    return dict({"kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid, "n": _number(public.n), "e": _number(public.e)},
                **more)


def pem(private):
    return private.public_key().public_bytes(serialization.Encoding.PEM,
                                             serialization.PublicFormat.SubjectPublicKeyInfo)


def text_of(part):
    return part if isinstance(part, bytes) else json.dumps(part).encode()


def token(claims, header=None, private=None, signature=None):
    """Signed with RS256 by the key, unless a signature is given; header and claims as objects or bytes."""
    signed = (b64(text_of(header)) + "." + b64(text_of(claims))).encode()
    if signature is None:
        signature = private.sign(signed, padding.PKCS1v15(), hashes.SHA256())
    return signed.decode() + "." + b64(signature)


def hmac_token(claims, header, secret):
    signed = (b64(text_of(header)) + "." + b64(text_of(claims))).encode()
    return signed.decode() + "." + b64(hmac.new(secret, signed, hashlib.sha256).digest())


class Issuer:
    def __init__(self):
        self.http = Receiver()
        self.keys = {"one": key("one")}
        self.publish()

    def stop(self):
        self.http.stop()

    @property
    def url(self):
        return self.http.url(PATH)

    @property
    def fetches(self):
        return len(self.http.at(PATH))

    def key_set(self):
        return json.dumps({"keys": [jwk(kid, k) for kid, k in self.keys.items()]}).encode()

    def publish(self, max_age=None):
        """The set as it is now, from the next fetch on."""
        headers = {"Content-Type": "application/json"}
        if max_age is not None:
            headers["Cache-Control"] = "public, max-age=%d, must-revalidate" % max_age
        self.http.on(PATH, Answer(body=self.key_set(), headers=headers))

    def rotate(self, kid):
        """Another key takes the place of all."""
        self.keys = {kid: key(kid)}

    def misbehave(self, **answer):
        self.http.on(PATH, Answer(**answer))

    @staticmethod
    def claims(uid, **change):
        now = int(time.time())
        claims = {"iss": ISSUER, "aud": PROJECT, "sub": uid, "user_id": uid, "iat": now - 10, "exp": now + 3600,
                  "auth_time": now - 1000, "firebase": {"sign_in_provider": "custom"}}
        claims.update(change)
        return {k: v for k, v in claims.items() if v is not None}

    def token(self, uid, kid=None, private=None, header=None, **change):
        kid = kid or next(iter(self.keys))
        private = private or self.keys.get(kid) or key("one")
        return token(self.claims(uid, **change), dict({"alg": "RS256", "kid": kid, "typ": "JWT"}, **(header or {})),
                     private)

    def settings(self, **jwt):
        """Of omi.conf, with short times."""
        base = {"project": PROJECT, "jwks_url": self.url, "wait": "3s", "refresh_min": "60s"}
        base.update(jwt)
        return {"auth": {"jwt": base, "lane": {"timeout": "2s", "breaker": {"failures": 1000, "error_rate": 1,
                                                                         "min_attempts": 100000}}}}
