"""A blocking WSGI program for the truth harness (kit/truth.py): gunicorn serves it, the thread of the request calls on.

TRUTH_KEEP=1: one kept connection a thread to the upstream; else a new one for each call.
"""

import http.client
import os
import threading
import time
from urllib.parse import urlsplit

UPSTREAM = urlsplit(os.environ["TRUTH_UPSTREAM"])
KEEP = os.environ.get("TRUTH_KEEP") == "1"
local = threading.local()


def call(path):
    if not KEEP:
        connection = http.client.HTTPConnection(UPSTREAM.hostname, UPSTREAM.port, timeout=30)
        connection.request("GET", path, headers={"Connection": "close"})
        connection.getresponse().read()
        connection.close()
        return
    if not hasattr(local, "connection"):
        local.connection = http.client.HTTPConnection(UPSTREAM.hostname, UPSTREAM.port, timeout=30)
    local.connection.request("GET", path)
    local.connection.getresponse().read()


def app(environ, start_response):
    _, _, hop, plan, ms = environ["PATH_INFO"].split("/")
    count, _, rest = plan.partition(".")
    for k in range(1, int(count) + 1):
        call(f"/t/{hop}.{k}/{rest or 0}/{ms}")
    if count == "0":
        time.sleep(int(ms) / 1000)
    body = b"app\n"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
