"""Which tags of the other end spans carry, unless the configuration says otherwise. Used by config/model.py."""

PEER_TAGS = (
    "k8s.namespace.name",
    "k8s.pod.name",
    "k8s.node.name",
    "k8s.container.name",
    "k8s.deployment.name",
    "k8s.statefulset.name",
    "k8s.daemonset.name",
    "k8s.job.name",
    "k8s.cronjob.name",
    "zerospan.k8s.workload.kind",
    "zerospan.k8s.workload.name",
    "k8s.service.name",
    "cloud.availability_zone",
    "cloud.region",
    "zerospan.range.name",
    "host.name",
)
