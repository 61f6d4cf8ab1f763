{{- define "zerospan.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "zerospan.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "zerospan.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "zerospan.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "zerospan.selector" -}}
app.kubernetes.io/name: {{ include "zerospan.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "zerospan.labels" -}}
{{ include "zerospan.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: zerospan
{{- end -}}

{{- define "zerospan.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "zerospan.tokenSecret" -}}
{{- .Values.token.existingSecret | default (printf "%s-token" (include "zerospan.fullname" .)) -}}
{{- end -}}

{{- define "zerospan.clusterAddress" -}}
{{- printf "%s-enricher.%s.svc:%v" (include "zerospan.fullname" .) .Release.Namespace .Values.enricher.cluster.grpcPort -}}
{{- end -}}

{{/* The agent's configuration. */}}
{{- define "zerospan.agentConfig" -}}
{{- $own := dict "capture" (dict "nic" .Values.agent.nic)
      "metrics" (dict "listen" (printf "0.0.0.0:%v" .Values.agent.metricsPort))
      "enricher" (dict "address" "unix:///run/zerospan/enricher.sock") -}}
{{- toYaml (mergeOverwrite $own (deepCopy .Values.agent.config)) -}}
{{- end -}}

{{/* The configuration of the enricher beside the agent. */}}
{{- define "zerospan.nodeConfig" -}}
{{- $node := .Values.enricher.node -}}
{{- $upstream := dict "address" (include "zerospan.clusterAddress" .) "token_file" "/etc/zerospan/token/token" -}}
{{- if .Values.tls.existingSecret -}}
{{- $_ := set $upstream "ca" "/etc/zerospan/tls/ca.crt" -}}
{{- end -}}
{{- $own := dict "scope" "node"
      "listen" (dict "http" (printf "0.0.0.0:%v" $node.httpPort))
      "security" (dict "token_files" (list "/etc/zerospan/token/token"))
      "sources" (dict "kubelet" (dict "enabled" (ne $node.kubelet "off")) "os" (dict "root" "/proc/1/root"))
      "upstream" $upstream -}}
{{- if .Values.clusterName -}}
{{- $_ := set $own "cluster" (dict "name" .Values.clusterName) -}}
{{- end -}}
{{- toYaml (mergeOverwrite $own (deepCopy $node.config)) -}}
{{- end -}}

{{/* The configuration of the cluster's enrichers. */}}
{{- define "zerospan.clusterConfig" -}}
{{- $cluster := .Values.enricher.cluster -}}
{{- $security := dict "token_files" (list "/etc/zerospan/token/token") -}}
{{- if .Values.tls.existingSecret -}}
{{- $_ := set $security "cert" "/etc/zerospan/tls/tls.crt" -}}
{{- $_ := set $security "key" "/etc/zerospan/tls/tls.key" -}}
{{- end -}}
{{- $own := dict "scope" "cluster"
      "listen" (dict "grpc" (printf "0.0.0.0:%v" $cluster.grpcPort) "http" (printf "0.0.0.0:%v" $cluster.httpPort) "unix" nil)
      "security" $security
      "sources" (dict "kubernetes" (dict "enabled" true)) -}}
{{- if .Values.clusterName -}}
{{- $_ := set $own "cluster" (dict "name" .Values.clusterName) -}}
{{- end -}}
{{- toYaml (mergeOverwrite $own (deepCopy $cluster.config)) -}}
{{- end -}}

{{/* The kinds that the cluster's enrichers watch: those of the configuration, else the program's default. */}}
{{- define "zerospan.watched" -}}
{{- $default := list "namespaces" "nodes" "replicasets" "jobs" "ingresses" "services" "endpointslices" "pods" -}}
{{- dig "sources" "kubernetes" "watch" $default .Values.enricher.cluster.config | toJson -}}
{{- end -}}
