{{- /* Settings of a part, as the code has them, under what the values say. `part`, `values`, `root`. */ -}}
{{- define "runwire.settings" -}}
{{- $v := .root.Values -}}
{{- $given := dict -}}
{{- $access := dict -}}
{{- if $v.access.tls.enabled -}}
{{- $_ := set $access "RUNWIRE_TLS_CERT_FILE" "/access/tls/tls.crt" -}}
{{- $_ := set $access "RUNWIRE_TLS_KEY_FILE" "/access/tls/tls.key" -}}
{{- end -}}
{{- if $v.access.tokens.enabled -}}
{{- $_ := set $access "RUNWIRE_TOKENS" "/access/tokens/tokens" -}}
{{- $_ := set $access "RUNWIRE_RUN_TOKEN_KEYS" "/access/tokens/run-token-keys" -}}
{{- end -}}
{{- if $v.access.insecure -}}{{- $_ := set $access "RUNWIRE_INSECURE" "true" -}}{{- end -}}
{{- if $v.metrics.enabled -}}{{- $_ := set $access "RUNWIRE_METRICS" (printf "0.0.0.0:%v" (include "runwire.metricsPort" .)) -}}{{- end -}}
{{- if eq .part "gateway" -}}
{{- $name := include "runwire.name" .root -}}
{{- $given = dict "RUNWIRE_GATEWAY_LISTEN" "0.0.0.0:8080" "RUNWIRE_GATEWAY_SHUTDOWN_GRACE_SECONDS" (toString .values.graceSeconds)
    "RUNWIRE_GATEWAY_AGENT_ADDRESS" (printf "dns:///%s-agent:50051" $name)
    "RUNWIRE_GATEWAY_SCORER_ADDRESS" (printf "dns:///%s-scorer:50052" $name) -}}
{{- if $v.access.tls.enabled -}}
{{- $_ := set $given "RUNWIRE_GATEWAY_CA" "/access/tls/ca.crt" -}}
{{- end -}}
{{- else if eq .part "scorer" -}}
{{- $given = merge (dict "RUNWIRE_SCORER_LISTEN" "0.0.0.0:50052" "RUNWIRE_SCORER_GRACE_SECONDS" (toString .values.graceSeconds)) $access -}}
{{- else -}}
{{- $given = merge (dict "RUNWIRE_AGENT_LISTEN" "0.0.0.0:50051" "RUNWIRE_SHUTDOWN_GRACE_SECONDS" (toString .values.graceSeconds)) $access -}}
{{- if eq .part "worker" -}}{{- $given = merge (dict "RUNWIRE_ROLE" "work") $given -}}
{{- else if and $v.agent.split (ne $v.stores.mode "sqlite") -}}{{- $given = merge (dict "RUNWIRE_ROLE" "serve") $given -}}{{- end -}}
{{- end -}}
{{- $said := dict -}}
{{- if eq .part "worker" -}}{{- $said = merge (dict) .values.settings $v.agent.settings -}}{{- else -}}{{- $said = .values.settings -}}{{- end -}}
{{- range $key, $value := merge (dict) $said $given }}
{{ $key }}: {{ toString $value | quote }}
{{- end }}
{{- end -}}

{{- /* In the pod that has both services each shows its metrics at a port of its own. */ -}}
{{- define "runwire.metricsPort" -}}
{{- $port := int .root.Values.metrics.port -}}
{{- if and (eq .root.Values.stores.mode "sqlite") (eq .part "scorer") -}}{{ add1 $port }}{{- else -}}{{ $port }}{{- end -}}
{{- end -}}

{{- define "runwire.container" -}}
{{- $v := .root.Values -}}
{{- $scorer := eq .part "scorer" -}}
{{- $listen := ternary "RUNWIRE_SCORER_LISTEN" "RUNWIRE_AGENT_LISTEN" $scorer -}}
{{- $health := ternary "runwire.scorer.v1.ScorerService" "runwire.agent.v1.AgentService" $scorer -}}
name: {{ .part }}
image: {{ include "runwire.image" (dict "root" .root "image" .values.image) }}
imagePullPolicy: {{ $v.image.pullPolicy }}
envFrom:
  - configMapRef: {name: {{ include "runwire.name" .root }}-{{ .part }}}
{{- if ne .part "gateway" }}
  - secretRef: {name: {{ $v.models.secret }}, optional: true}
{{- end }}
{{- if or (ne .part "gateway") .values.env }}
env:
{{- end }}
{{- if eq $v.stores.mode "sqlite" }}
{{- if ne .part "gateway" }}
  - {name: RUNWIRE_STORE, value: "sqlite:////data/runs.db"}
{{- if $scorer }}
  - {name: RUNWIRE_RESULTS, value: "sqlite:////data/scores.db"}
{{- end }}
{{- end }}
{{- else if ne .part "gateway" }}
  - name: RUNWIRE_STORE
    valueFrom: {secretKeyRef: {name: {{ $v.stores.secret }}, key: RUNWIRE_STORE}}
{{- if $scorer }}
  - name: RUNWIRE_RESULTS
    valueFrom: {secretKeyRef: {name: {{ $v.stores.secret }}, key: RUNWIRE_RESULTS}}
{{- end }}
{{- end }}
{{- with .values.env }}
{{ toYaml . | indent 2 }}
{{- end }}
ports:
{{- if eq .part "gateway" }}
  - {name: http, containerPort: 8080}
{{- else }}
  - {name: {{ ternary "scorer" "agent" $scorer }}, containerPort: {{ ternary 50052 50051 $scorer }}}
{{- if $v.metrics.enabled }}
  - {name: {{ ternary "scorer-metrics" "metrics" $scorer }}, containerPort: {{ include "runwire.metricsPort" . }}}
{{- end }}
{{- end }}
{{- if eq .part "gateway" }}
startupProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 2
  failureThreshold: 60
readinessProbe:
  httpGet: {path: /readyz, port: http}
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: 2
livenessProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 30
  timeoutSeconds: 10
  failureThreshold: 10
{{- else }}
# By a command: Kubernetes' own gRPC probes speak no TLS. Starting and liveness ask whether the process lives, readiness
# whether it can serve: a store that is away makes pods unready and restarts none. Liveness is patient, because a tool may
# block the event loop for a while and keeps its leases.
startupProbe:
  exec: {command: [python, /opt/healthcheck.py, {{ $listen }}, runwire.liveness]}
  periodSeconds: 4
  timeoutSeconds: 5
  failureThreshold: 30
readinessProbe:
  exec: {command: [python, /opt/healthcheck.py, {{ $listen }}{{ if ne .part "worker" }}, {{ $health }}{{ end }}]}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 2
livenessProbe:
  exec: {command: [python, /opt/healthcheck.py, {{ $listen }}, runwire.liveness]}
  periodSeconds: 30
  timeoutSeconds: 10
  failureThreshold: 10
{{- end }}
lifecycle:
  # Until the pod's address is out of DNS: SIGTERM closes the port to new calls.
  preStop:
    sleep: {seconds: 5}
resources:
{{ toYaml .values.resources | indent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
{{- if $v.access.tls.enabled }}
  - {name: {{ .part }}-tls, mountPath: /access/tls, readOnly: true}
{{- end }}
{{- if and $v.access.tokens.enabled (ne .part "gateway") }}
  - {name: tokens, mountPath: /access/tokens, readOnly: true}
{{- end }}
{{- if and (eq $v.stores.mode "sqlite") (ne .part "gateway") }}
  - {name: data, mountPath: /data}
{{- end }}
{{- with .values.extraVolumeMounts }}
{{ toYaml . | indent 2 }}
{{- end }}
{{- end -}}

{{- /* What every pod has, around its containers. `parts`: those whose certificates it reads. */ -}}
{{- define "runwire.pod" -}}
{{- $v := .root.Values -}}
{{- $name := include "runwire.name" .root -}}
automountServiceAccountToken: false
# No variables named after Services: RUNWIRE_AGENT_PORT would look like a setting.
enableServiceLinks: false
# preStop 5 s, then the grace for work, and 15 s to end streams, leases and connections, and some to spare.
terminationGracePeriodSeconds: {{ add .graceSeconds 25 }}
{{- with $v.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- if .values.topologySpread }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
{{ include "runwire.selector" . | indent 8 }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
{{ toYaml . | indent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
{{ toYaml . | indent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
{{ toYaml . | indent 2 }}
{{- end }}
volumes:
  - name: tmp
    emptyDir: {sizeLimit: 256Mi}
{{- if $v.access.tls.enabled }}
{{- range .parts }}
  # Whole folders: a file that is mounted by `subPath` is never renewed.
  - name: {{ . }}-tls
    secret: {secretName: {{ $name }}-{{ ternary "agent" . (eq . "worker") }}-tls, defaultMode: 0440}
{{- end }}
{{- end }}
{{- if and $v.access.tokens.enabled (not (has "gateway" .parts)) }}
  - name: tokens
    secret: {secretName: {{ $v.access.tokens.secret }}, defaultMode: 0440}
{{- end }}
{{- with .values.extraVolumes }}
{{ toYaml . | indent 2 }}
{{- end }}
{{- end -}}

{{- /* The Deployment of a part: `part`, `values`, `root`. */ -}}
{{- define "runwire.deployment" -}}
{{- $name := printf "%s-%s" (include "runwire.name" .root) .part -}}
{{- $settings := include "runwire.settings" . -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ $name }}
  labels:
{{ include "runwire.labels" . | indent 4 }}
data:
{{- $settings | indent 2 }}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $name }}
  labels:
{{ include "runwire.labels" . | indent 4 }}
spec:
{{- if eq (default "none" .values.autoscaling.mode) "none" }}
  replicas: {{ .values.replicas }}
{{- end }}
  # A new pod answers before an old one is asked to drain.
  strategy:
    type: RollingUpdate
    rollingUpdate: {maxUnavailable: 0, maxSurge: 1}
  minReadySeconds: 5
  selector:
    matchLabels:
{{ include "runwire.selector" . | indent 6 }}
  template:
    metadata:
      labels:
{{ include "runwire.labels" . | indent 8 }}
{{- with .values.podLabels }}
{{ toYaml . | indent 8 }}
{{- end }}
      annotations:
        # A changed setting rolls the pods.
        checksum/settings: {{ $settings | sha256sum }}
{{- with .values.podAnnotations }}
{{ toYaml . | indent 8 }}
{{- end }}
    spec:
{{ include "runwire.pod" (merge (dict "parts" (list .part) "graceSeconds" .values.graceSeconds) .) | indent 6 }}
      containers:
        -
{{ include "runwire.container" . | indent 10 }}
{{- end -}}

{{- /* Without an address of its own: the name leads to every pod, and a client spreads its calls over them, by the target
dns:///NAME:PORT and the policy round_robin. Behind one address it would stay with the one pod of its one connection. */ -}}
{{- define "runwire.service" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "runwire.name" .root }}-{{ .part }}
  labels:
{{ include "runwire.labels" . | indent 4 }}
spec:
{{- if ne .part "gateway" }}
  clusterIP: None
{{- end }}
  selector:
{{ include "runwire.selector" (dict "root" .root "part" (default .part .of)) | indent 4 }}
  ports:
{{- if eq .part "gateway" }}
    - {name: http, port: 80, targetPort: http, appProtocol: http}
{{- else }}
    - {name: grpc, port: {{ .port }}, targetPort: {{ .part }}, appProtocol: grpc}
{{- end }}
{{- end -}}

{{- define "runwire.disruption" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "runwire.name" .root }}-{{ .part }}
  labels:
{{ include "runwire.labels" . | indent 4 }}
spec:
  maxUnavailable: {{ .values.disruption.maxUnavailable }}
  selector:
    matchLabels:
{{ include "runwire.selector" . | indent 6 }}
{{- end -}}
