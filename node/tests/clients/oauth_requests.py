"""Signs and sends requests with requests-oauthlib, as it comes. One order a line, one answer a line.

An order: method, url, key, secret; optional: body (JSON), sha256 (hash the body with SHA-256),
unhashed (no body hash), signature_method, timestamp, nonce, tamper (what to change after signing:
{"body": text} or {"url": url}). {"again": true} sends the very same bytes once more.
"""

import base64
import hashlib
import json
import sys

import requests
from oauthlib.oauth1 import Client
from requests_oauthlib import OAuth1


class Sha256Body(Client):
    """The class of the specification for products that forbid SHA-1."""

    def get_oauth_params(self, request):
        params = [p for p in super().get_oauth_params(request) if p[0] != "oauth_body_hash"]
        if request.body is not None:
            body = request.body if isinstance(request.body, bytes) else request.body.encode()
            digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
            params.append(("oauth_body_hash", digest))
        return params


def prepare(order):
    body = order.get("body")
    options = {name: order[name] for name in ("timestamp", "nonce") if name in order}
    if order.get("sha256"):
        options["client_class"] = Sha256Body
    auth = OAuth1(
        order["key"],
        client_secret=order["secret"],
        signature_method=order.get("signature_method", "HMAC-SHA256"),
        force_include_body=body is not None and not order.get("unhashed"),
        **options,
    )
    request = requests.Request(order["method"], order["url"], json=body, auth=auth).prepare()
    tamper = order.get("tamper", {})
    if "body" in tamper:
        request.body = tamper["body"].encode()
        request.headers["Content-Length"] = str(len(request.body))
    if "url" in tamper:
        request.url = tamper["url"]
    return request


def main():
    request = None
    for line in sys.stdin:
        order = json.loads(line)
        if not order.get("again"):
            request = prepare(order)
        with requests.Session() as session:
            answer = session.send(request, timeout=30)
        print(json.dumps({"status": answer.status_code, "body": answer.json()}))


main()
