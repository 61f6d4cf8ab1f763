"""OTLP proxy: anyone's traces, metrics and logs come in, get the tags of whom they speak of, and go on.

`server_grpc.py` and `server_http.py` take requests, `rewrite.pyx` (protobuf) and `json_body.py` walk to the resources,
`resources.py` knows what to add to each, `forward.py` brings the request to the endpoint and its answer back.
`proxy.Proxy` is all of it. A request is answered when the endpoint has answered: the proxy never owns data.
"""
