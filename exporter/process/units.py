"""What a systemd unit is called as a service. Called by describe.py; systemd.unit(5), systemd.special(7).

Only a unit of one program names it: what runs in the unit of a supervisor, of a user's session or of a container
runtime is something else each time.
"""

import re

from zerospan.exporter.process.names import PRODUCTS
from zerospan.exporter.process.text import clean, word, words

ESCAPED = re.compile(r"\\x([0-9a-f]{2})")
# Those that start programs for others, and those whose name says nothing.
SUPERVISORS = words(
    """
    cron crond anacron atd supervisor supervisord circus monit runit s6 daemontools docker containerd podman crio
    kubelet k3s k3s-agent rke2-server rke2-agent k0scontroller k0sworker buildkit snap.docker.dockerd nomad sshd ssh
    init user systemd-nspawn machine libvirtd xinetd inetd rc-local gitlab-runner actions.runner pm2-root
    autovt getty serial-getty console-getty display-manager gdm sddm lightdm
    """
)
TRANSIENT = re.compile(r"run-[a-z]?[0-9a-f]+(?:-i?\d+)?|run-p\d+-i\d+|session-.+|libcrun-.+|crash-.+")
# Templates that say how, and their instance what: gunicorn@shop.service
HOW = words(
    """
    app service daemon worker web gunicorn uvicorn uwsgi puma unicorn celery python java node php ruby compose
    docker-compose podman-compose
    """
)


def name_of_unit(unit: str) -> str:
    """service.name of a unit, "" if it is none of one program's."""
    if not unit.endswith(".service"):
        return ""
    stem = ESCAPED.sub(lambda match: chr(int(match[1], 16)), unit.removesuffix(".service"))
    prefix, at, instance = stem.partition("@")
    if at and prefix in HOW and word(instance) and not instance.isdigit():
        prefix = instance
    prefix = clean(prefix)
    if prefix in SUPERVISORS or TRANSIENT.fullmatch(prefix) or not word(prefix):
        return ""
    return PRODUCTS.get(prefix, prefix)
