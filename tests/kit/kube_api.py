"""Plain requests to a test cluster's API server, as the administrator or with a token. Used by tests/e2e."""

from __future__ import annotations

import json
import ssl
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kube_cluster import Cluster


class Api:
    """token: of whom the requests are; "" is the administrator by certificate. One connection, one thread."""

    def __init__(self, cluster: Cluster, token: str = "") -> None:
        self._token = token
        context = ssl.create_default_context(cafile=str(cluster.pki.ca))
        if not token:
            context.load_cert_chain(cluster.pki.cert("admin"), cluster.pki.key("admin"))
        at = urlsplit(cluster.server)
        self._connection = HTTPSConnection(at.hostname or "", at.port, context=context, timeout=10)

    def __call__(
        self, method: str, path: str, body: Any = None, *, kind: str = "application/json", whole: bool = True
    ) -> tuple[int, Any]:
        """Status and decoded answer (None where it is no JSON, or is not waited for)."""
        data = json.dumps(body).encode() if body is not None else None
        headers = {"Content-Type": kind, "Accept": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        self._connection.request(method, path, data, headers)
        answer = self._connection.getresponse()
        if not whole:
            self._connection.close()
            return answer.status, None
        try:
            return answer.status, json.loads(answer.read())
        except ValueError:
            return answer.status, None

    def may(self, user: str, verb: str, group: str, resource: str, *, namespace: str = "") -> bool:
        """Whether a user ("system:serviceaccount:NAMESPACE:NAME") may do it: what `kubectl auth can-i --as` asks."""
        resource, _, sub = resource.partition("/")
        asked = {"verb": verb, "group": group, "resource": resource, "subresource": sub, "namespace": namespace}
        groups = ["system:serviceaccounts", f"system:serviceaccounts:{user.split(':')[2]}", "system:authenticated"]
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": user, "groups": groups, "resourceAttributes": asked},
        }
        status, answer = self("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        assert status == 201, answer
        return bool(answer["status"]["allowed"])

    def resources(self) -> set[tuple[str, str]]:
        """(group, resource) of all that this server knows, subresources included."""
        found = set()
        places = [("", "/api/v1")]
        places += [
            (group["name"], f"/apis/{group['preferredVersion']['groupVersion']}")
            for group in self("GET", "/apis")[1]["groups"]
        ]
        for group, path in places:
            found |= {(group, one["name"]) for one in self("GET", path)[1]["resources"]}
        return found


def kubeconfig(cluster: Cluster, token: str, path: Path) -> Path:
    """A kubeconfig with a token, for a program of ours outside the cluster."""
    user = {"name": "u", "user": {"token": token}}
    at = {"name": "c", "cluster": {"server": cluster.server, "certificate-authority": str(cluster.pki.ca)}}
    context = {"name": "x", "context": {"cluster": "c", "user": "u"}}
    path.write_text(json.dumps({
        "apiVersion": "v1", "kind": "Config", "clusters": [at], "users": [user], "contexts": [context],
        "current-context": "x",
    }))  # fmt: skip
    return path
