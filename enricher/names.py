"""Every tag by name: the one table. docs/tags.md is made of it; sources take their names from here.

OpenTelemetry's resource conventions (1.44) where one exists, `zerospan.*` where none does. Families that are opt-in
end in ".": a label's or annotation's own name follows.
"""

from typing import Final, NamedTuple


class Tag(NamedTuple):
    source: str  # who finds it
    text: str  # what it is
    example: str


SERVICE_NAME: Final = "service.name"
SERVICE_NAMESPACE: Final = "service.namespace"
SERVICE_VERSION: Final = "service.version"
SERVICE_INSTANCE_ID: Final = "service.instance.id"

TAGS: Final[dict[str, Tag]] = {
    # services
    SERVICE_NAME: Tag(
        "process, Kubernetes, OS, static",
        "the service's name, by the order of `sources.kubernetes.naming.name`",
        "cart",
    ),
    SERVICE_NAMESPACE: Tag("process, Kubernetes", "what its name is unique in", "shop"),
    SERVICE_VERSION: Tag("process, Kubernetes", "its version, else the image's tag", "1.4.2"),
    SERVICE_INSTANCE_ID: Tag("process, Kubernetes, OS", "one running copy of it", "shop.cart-7d9f-x2x.app"),
    "deployment.environment.name": Tag("process, static", "production, staging...", "production"),
    # cloud
    "cloud.provider": Tag("cloud, Kubernetes (providerID)", "whose cloud it is", "aws"),
    "cloud.platform": Tag("cloud", "the service of the cloud that runs it", "aws_ec2"),
    "cloud.region": Tag("cloud, Kubernetes (node label)", "region", "eu-central-1"),
    "cloud.availability_zone": Tag("cloud, Kubernetes (node label)", "zone", "eu-central-1b"),
    "cloud.account.id": Tag("cloud", "account, project, subscription or tenant", "123456789012"),
    "cloud.resource_id": Tag("cloud", "the provider's own name of the machine", "arn:aws:ec2:..."),
    "host.id": Tag("cloud, Kubernetes (providerID), OS", "the machine's id", "i-0f3a5c"),
    "host.name": Tag("OS, cloud, Kubernetes", "the machine's name", "node-7"),
    "host.type": Tag("cloud, Kubernetes (node label)", "the machine's type", "m6i.large"),
    "host.image.id": Tag("cloud", "the image it was made of", "ami-07b0"),
    "host.image.name": Tag("cloud", "the image's name", "debian-12"),
    "host.ip": Tag("Kubernetes, cloud", "its addresses, with commas between", "172.30.0.11"),
    "host.arch": Tag("OS, Kubernetes, cloud", "its processor", "amd64"),
    "os.type": Tag("OS", "operating system", "linux"),
    "os.name": Tag("OS", "operating system's name", "Debian GNU/Linux"),
    "os.version": Tag("OS", "its version", "12"),
    "os.description": Tag("OS, Kubernetes", "operating system in words", "Debian GNU/Linux 12"),
    "zerospan.cloud.vpc.id": Tag("cloud, static", "virtual network", "vpc-0a1b"),
    "zerospan.cloud.subnet.id": Tag("cloud, static", "subnet", "subnet-0c2d"),
    "zerospan.cloud.subnet.cidr": Tag("cloud, static", "the subnet's address range", "10.0.16.0/20"),
    "zerospan.cloud.private_ip": Tag("cloud", "address inside", "10.0.17.4"),
    "zerospan.cloud.public_ip": Tag("cloud", "address outside", "203.0.113.7"),
    "zerospan.cloud.nat_gateway": Tag("cloud, static", "what translates its addresses", "nat-0e3f"),
    "zerospan.cloud.load_balancer": Tag("cloud, Kubernetes, static", "what stands before it", "a1b2.elb.amazonaws.com"),
    "zerospan.cloud.tag.": Tag("cloud", "tags of the cloud machine; opt-in by glob", "team=shop"),
    # Kubernetes
    "k8s.cluster.name": Tag("configuration, node labels, cloud", "the cluster's name", "prod-1"),
    "k8s.cluster.uid": Tag("Kubernetes, configuration", "uid of the namespace kube-system", "9c5f..."),
    "k8s.node.name": Tag("Kubernetes, kubelet", "node", "n1"),
    "k8s.node.uid": Tag("Kubernetes", "the node's uid", "11d0..."),
    "k8s.namespace.name": Tag("Kubernetes, kubelet", "namespace", "shop"),
    "k8s.pod.name": Tag("Kubernetes, kubelet", "pod", "cart-7d9f-x2x"),
    "k8s.pod.uid": Tag("Kubernetes, kubelet", "the pod's uid", "3ff9..."),
    "k8s.pod.ip": Tag("Kubernetes, kubelet", "the pod's first address", "10.244.1.7"),
    "k8s.pod.start_time": Tag("Kubernetes, kubelet", "when it started, RFC 3339", "2026-11-23T10:00:00Z"),
    "k8s.container.name": Tag("Kubernetes, kubelet", "container in the pod", "app"),
    "k8s.container.restart_count": Tag("Kubernetes, kubelet", "how often it has begun again", "0"),
    "k8s.deployment.name": Tag("Kubernetes, kubelet (by the pod's hash)", "workload", "cart"),
    "k8s.replicaset.name": Tag("Kubernetes, kubelet", "workload", "cart-7d9f"),
    "k8s.statefulset.name": Tag("Kubernetes, kubelet", "workload", "postgres"),
    "k8s.daemonset.name": Tag("Kubernetes, kubelet", "workload", "agent"),
    "k8s.job.name": Tag("Kubernetes, kubelet", "workload", "report-2971"),
    "k8s.cronjob.name": Tag("Kubernetes", "workload", "report"),
    "k8s.replicationcontroller.name": Tag("Kubernetes, kubelet", "workload", "old"),
    "zerospan.k8s.workload.kind": Tag("Kubernetes, kubelet", "kind of the topmost owner, custom ones too", "Rollout"),
    "zerospan.k8s.workload.name": Tag("Kubernetes, kubelet", "name of the topmost owner", "cart"),
    "k8s.service.name": Tag("Kubernetes", "the (first) Service that selects the pod, or the address's own", "cart"),
    "k8s.service.uid": Tag("Kubernetes", "the Service's uid", "77aa..."),
    "zerospan.k8s.service.type": Tag("Kubernetes", "of a Service's address", "ClusterIP"),
    "zerospan.k8s.ingress.name": Tag("Kubernetes", "the Ingress that leads to the Service", "shop"),
    "k8s.pod.label.": Tag("Kubernetes, kubelet", "labels; opt-in by glob", "team=shop"),
    "k8s.pod.annotation.": Tag("Kubernetes, kubelet", "annotations; opt-in by glob", "owner=alice"),
    "k8s.node.label.": Tag("Kubernetes", "labels; opt-in by glob", "pool=blue"),
    "k8s.namespace.label.": Tag("Kubernetes", "labels; opt-in by glob", "tenant=a"),
    "k8s.deployment.label.": Tag("Kubernetes", "labels; opt-in by glob", "tier=front"),
    "k8s.replicaset.label.": Tag("Kubernetes", "labels; opt-in by glob", "tier=front"),
    "k8s.statefulset.label.": Tag("Kubernetes", "labels; opt-in by glob", "tier=front"),
    "k8s.daemonset.label.": Tag("Kubernetes", "labels; opt-in by glob", "tier=front"),
    "k8s.cronjob.label.": Tag("Kubernetes", "labels; opt-in by glob", "tier=front"),
    "k8s.job.label.": Tag("Kubernetes", "labels; opt-in by glob", "tier=front"),
    "zerospan.k8s.container.env.": Tag("Kubernetes, kubelet", "plain environment; opt-in by glob", "REGION=eu1"),
    # containers
    "container.id": Tag("OS, Kubernetes, kubelet", "the runtime's id", "5d1c..."),
    "container.name": Tag("OS", "name outside Kubernetes", "cart"),
    "container.runtime": Tag("Kubernetes, kubelet, OS", "containerd, cri-o, docker, podman", "containerd"),
    "container.image.name": Tag("Kubernetes, kubelet, OS", "image without tag", "registry/shop/cart"),
    "container.image.tags": Tag("Kubernetes, kubelet, OS", "the image's tag", "1.4.2"),
    "container.image.repo_digests": Tag("Kubernetes, kubelet", "the image's digest", "cart@sha256:..."),
    # processes
    "process.pid": Tag("agent, OS", "process id on the host", "4711"),
    "process.executable.name": Tag("agent, OS", "program", "python3.11"),
    "process.executable.path": Tag("agent, OS", "path of the program", "/usr/bin/python3.11"),
    "process.command": Tag("agent, OS", "the command, arguments masked", "python app.py"),
    "process.command_line": Tag("OS", "the command line, arguments masked, on demand", "python3 app.py --port=?"),
    "process.owner": Tag("agent, OS", "user", "www-data"),
    "process.creation.time": Tag("agent, OS", "when it began, RFC 3339", "2026-11-23T10:00:00Z"),
    "process.runtime.name": Tag("agent, OS", "language runtime", "cpython"),
    "process.runtime.version": Tag("agent, OS", "its version", "3.11.2"),
    "zerospan.systemd.unit": Tag("OS", "systemd unit", "nginx.service"),
    "zerospan.process.env.": Tag("OS", "environment; opt-in by glob, never by default", "REGION=eu1"),
    # addresses
    "zerospan.range.name": Tag("static", "what a person calls an address range", "orders RDS"),
    "zerospan.nat.address": Tag("conntrack", "the translated address behind this one", "10.244.1.7:8080"),
}
