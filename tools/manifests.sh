#!/usr/bin/env bash
# Writes deploy/kubernetes/zerospan.yaml from the Helm chart, for who installs without Helm.
# Needs Helm (`helm` on PATH, else tests/e2e/kubernetes/build.sh helm brings it). tests/e2e/test_kubernetes_chart.py compares.
# `tools/manifests.sh -` prints instead.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${ZEROSPAN_KUBERNETES_CACHE:-$PWD/.cache/kubernetes}
helm=$cache/helm
[[ -x $helm ]] || helm=$(type -P helm) || { tests/e2e/kubernetes/build.sh helm && helm=$cache/helm; }
out=deploy/kubernetes/zerospan.yaml
[[ ${1:-} == - ]] && out=/dev/stdout
made=$("$helm" template zerospan deploy/helm/zerospan --namespace zerospan --kube-version 1.33.0 --set token.existingSecret=zerospan-token)
cat >"$out" <<'END'
# Made by tools/manifests.sh from deploy/helm/zerospan with its default values: change those, not this file.
#   kubectl create namespace zerospan
#   kubectl --namespace zerospan create secret generic zerospan-token --from-literal=token="$(openssl rand -hex 20)"
#   kubectl apply -f zerospan.yaml
# Where spans and logs go: agent.yaml in the ConfigMap zerospan-node (docs/configuration.md), then
#   kubectl --namespace zerospan rollout restart daemonset/zerospan-node
END
printf '%s\n' "$made" | sed -e '/^# Source: /d' -e 's/^\( *\)app.kubernetes.io\/managed-by: Helm$/\1app.kubernetes.io\/managed-by: kubectl/' >>"$out"
