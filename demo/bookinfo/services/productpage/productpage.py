"""Bookinfo's page of a product: Flask under gunicorn's threads, asks details and reviews for each request.

A plain blocking program that knows nothing of tracing or of the mesh. Each call is a connection of its own
(`requests.get`), so each begins with a look-up of the name. The driver's request id travels in the path, as
everywhere in this demo. With BOOKINFO_FORWARD=1 it hands X-Request-ID on, which Istio asks of programs and Istio's
own sample does. BOOKINFO_TAG=1: the names looked up carry the request's id.
"""

import os

import requests
from flask import Flask, jsonify, request

FORWARD = os.environ.get("BOOKINFO_FORWARD") == "1"
TAG = os.environ.get("BOOKINFO_TAG") == "1"
PORT = 9080

app = Flask("productpage")


def ask(service, rid):
    headers = {"User-Agent": request.headers.get("User-Agent", "productpage")}  # as Istio's own sample does
    if FORWARD and "X-Request-ID" in request.headers:
        headers["X-Request-ID"] = request.headers["X-Request-ID"]
    name = f"{rid}.{service}.bookinfo" if TAG else f"{service}.bookinfo"
    return requests.get(f"http://{name}:{PORT}/r/{rid}/{service}/0", headers=headers, timeout=10)


@app.get("/healthz")
def healthz():
    return "ok\n"


@app.get("/r/<rid>/productpage")
def productpage(rid):
    details, reviews = ask("details", rid), ask("reviews", rid)
    status = 200 if details.ok and reviews.ok else 502
    return jsonify(
        details=details.json() if details.ok else None, reviews=reviews.json() if reviews.ok else None
    ), status
