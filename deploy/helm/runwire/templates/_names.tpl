{{- define "runwire.name" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* What a part's pods are found by: it never changes. */ -}}
{{- define "runwire.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end -}}

{{- define "runwire.labels" -}}
{{ include "runwire.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: runwire
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- with .root.Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "runwire.image" -}}
{{- $of := .image -}}
{{- with .root.Values.image.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{ $of.repository }}
{{- if $of.digest }}@{{ $of.digest }}{{ else }}:{{ default .root.Chart.AppVersion $of.tag }}{{ end -}}
{{- end -}}

{{- /* Why this release may not be: one line for each reason. */ -}}
{{- define "runwire.guard" -}}
{{- $v := .Values -}}
{{- $single := eq $v.stores.mode "sqlite" -}}
{{- if and (not $v.access.insecure) (not (and $v.access.tls.enabled $v.access.tokens.enabled)) -}}
{{- fail "access: without TLS or tokens anyone who reaches a pod may do everything; if that is meant, set access.insecure" -}}
{{- end -}}
{{- if and $v.access.insecure $v.access.tls.enabled $v.access.tokens.enabled -}}
{{- fail "access.insecure is set beside TLS and tokens: take it away" -}}
{{- end -}}
{{- if and $single (not (and $v.agent.enabled $v.scorer.enabled)) -}}
{{- fail "stores.mode=sqlite has both services in one pod: agent.enabled and scorer.enabled have to be true" -}}
{{- end -}}
{{- if and $single (or (ne $v.worker.autoscaling.mode "none") (ne $v.scorer.autoscaling.mode "none")) -}}
{{- fail "stores.mode=sqlite is one pod, and cannot be scaled by KEDA" -}}
{{- end -}}
{{- if and (eq $v.worker.autoscaling.mode "keda") (not $v.agent.split) -}}
{{- fail "worker.autoscaling.mode=keda scales pods that only execute runs: agent.split has to be true" -}}
{{- end -}}
{{- end -}}
