"""Makes terminal tokens with PyJWT and cryptography, and tells how a node answers them.

An order: product, url, claims, key (secret as base64url, or PEM), algorithm, kid; the answer: the first
frame, and the code with which the link was closed when that was not `opened`.
{"keypair": true} makes an Ed25519 key pair. With "forge": "hmac" the PEM itself is the HMAC secret, which
PyJWT refuses to do; with "forge": "none" there is no signature.
"""

import base64
import hashlib
import hmac
import json
import sys

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect


def keypair():
    private = Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    return {
        "private": private.private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode(),
        "public": private.public_key()
        .public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode(),
    }


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(order):
    claims, kid = order["claims"], order["kid"]
    if forge := order.get("forge"):
        algorithm = "HS256" if forge == "hmac" else "none"
        header = {"alg": algorithm, "typ": "JWT", "kid": kid}
        signed = ".".join(base64url(json.dumps(part).encode()) for part in (header, claims))
        signature = b""
        if forge == "hmac":
            signature = hmac.new(order["key"].encode(), signed.encode(), hashlib.sha256).digest()
        return f"{signed}.{base64url(signature)}"
    key = order["key"]
    if order["algorithm"] == "HS256":
        key = base64.urlsafe_b64decode(key + "=" * (-len(key) % 4))
    headers = {"kid": kid} if kid else {}
    return jwt.encode(claims, key, algorithm=order["algorithm"], headers=headers)


def answer(order):
    with connect(order["url"], subprotocols=["clarion.v1.json"], compression=None) as link:
        frame = {"t": "open", "s": 1, "product": order["product"], "token": token(order)}
        link.send(json.dumps(frame))
        told = {"frame": json.loads(link.recv(timeout=30))}
        if told["frame"]["t"] != "opened":
            try:
                link.recv(timeout=30)
            except ConnectionClosed as closed:
                told["close"] = closed.rcvd.code
        return told


def main():
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(keypair() if order.get("keypair") else answer(order)))


main()
