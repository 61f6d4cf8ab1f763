"""The shop's front service: Flask under gunicorn, asked by nginx, asks catalog, pricing and recommend.

A plain blocking program that knows nothing of tracing. Every call leaves on the thread that serves the request:
a DNS query over UDP for the service's name, then HTTP/1.1. Pricing and recommend are called over connections that
are kept (one `requests.Session` a thread), catalog with `Connection: close`. Settings come from the environment,
set by `demo/shop.py`: SHOP_DNS (address:port of the name server), SHOP_PORTS (name=port,...), SHOP_TAG (1: names
looked up carry the request id).
"""

import os
import threading

import dns.resolver
import requests
from flask import Flask, jsonify, request

PORTS = {name: int(port) for name, port in (pair.split("=") for pair in os.environ["SHOP_PORTS"].split(","))}
TAG = os.environ.get("SHOP_TAG") == "1"
# Not kept: without its reactor thread, Puma closes a connection after 0.2 s with no request.
CLOSING = {"catalog"}
UNKNOWN = 1_000_000  # added to a product number, makes one that catalog does not have

app = Flask("shop")
local = threading.local()


def resolver():
    """This thread's resolver: the demo's name server only, no cache, so each look-up is a query on the wire."""
    if not hasattr(local, "resolver"):
        address, port = os.environ["SHOP_DNS"].rsplit(":", 1)
        local.resolver = dns.resolver.Resolver(configure=False)
        local.resolver.nameservers = [address]
        local.resolver.port = int(port)
        local.resolver.lifetime = 5.0
    return local.resolver


def session():
    """This thread's HTTP connections; proxies of the environment are not for loopback."""
    if not hasattr(local, "session"):
        local.session = requests.Session()
        local.session.trust_env = False
    return local.session


def call(service, rid, method, rest, body=None):
    """Look `service` up and ask it; the request id travels in the path, as it does everywhere in this shop."""
    name = f"{service}.shop.test"
    asked = f"{rid}.{name}" if TAG else name
    address = resolver().resolve(asked, "A", search=False)[0].address
    headers = {"Host": f"{name}:{PORTS[service]}"}
    if service in CLOSING:
        headers["Connection"] = "close"
    url = f"http://{address}:{PORTS[service]}/r/{rid}/{rest}"
    return session().request(method, url, json=body, headers=headers, timeout=10)


@app.get("/healthz")
def healthz():
    return "ok\n"


@app.get("/r/<rid>/products/<int:item>")
def product(rid, item):
    found = call("catalog", rid, "GET", f"items/{item}")
    price = call("pricing", rid, "GET", f"prices/{item}")
    return jsonify(**found.json(), **price.json())


@app.get("/r/<rid>/recommend/<int:item>")
def recommend(rid, item):
    return jsonify(call("recommend", rid, "GET", f"similar/{item}").json())


@app.post("/r/<rid>/orders")
def order(rid):
    wanted = request.get_json()
    item, quantity = int(wanted["item"]), int(wanted["quantity"])
    reserved = call("catalog", rid, "POST", f"reservations/{item}", {"quantity": quantity})
    placed = call("pricing", rid, "POST", "orders", {"item": item, "quantity": quantity})
    return jsonify(**reserved.json(), **placed.json()), placed.status_code


@app.get("/r/<rid>/missing/<int:item>")
def missing(rid, item):
    found = call("catalog", rid, "GET", f"items/{UNKNOWN + item}")
    return jsonify(found.json()), found.status_code


@app.get("/r/<rid>/broken/<int:item>")
def broken(rid, item):
    failed = call("pricing", rid, "GET", f"faults/{item}")
    return jsonify(failed.json()), failed.status_code
