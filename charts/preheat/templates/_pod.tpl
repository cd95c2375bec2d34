{{- /* What both processes share. Called with root, component ("controller" or "webhook") and its values. */}}

{{- define "preheat.podMetadata" -}}
{{- with .values.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
labels:
  {{- include "preheat.labels" . | nindent 2 }}
  {{- with .values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "preheat.podPlacement" -}}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "preheat.podSecurity" -}}
# Variables of Services named preheat would be taken for our own settings.
enableServiceLinks: false
securityContext:
  {{- toYaml .root.Values.podSecurityContext | nindent 2 }}
volumes:
- name: tmp
  emptyDir: {medium: Memory, sizeLimit: 16Mi}
{{- end }}

{{- define "preheat.container" -}}
name: {{ .component }}
image: {{ include "preheat.image" (dict "root" .root "image" .root.Values.image) }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
args: [{{ .component }}]
env:
- name: PREHEAT_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: PREHEAT_LOADER_IMAGE
  value: {{ include "preheat.image" (dict "root" .root "image" .root.Values.loader.image) | quote }}
- name: PREHEAT_IMAGE_PULL_POLICY
  value: {{ .root.Values.loader.image.pullPolicy }}
- name: PREHEAT_LOADER_RESOURCES
  value: {{ .root.Values.loader.resources | toJson | quote }}
{{- with .root.Values.loader.environment }}
- name: PREHEAT_LOADER_ENVIRONMENT
  value: {{ . | toJson | quote }}
{{- end }}
- name: PREHEAT_CHECK
  value: {{ .root.Values.check.enabled | quote }}
- name: PREHEAT_PROGRESS
  value: {{ .root.Values.progress.enabled | quote }}
- name: PREHEAT_STALL_SECONDS
  value: {{ .root.Values.progress.stallSeconds | quote }}
- name: PREHEAT_INJECTION
  value: {{ .root.Values.injection }}
- name: PREHEAT_SERVICE_NAME
  value: {{ include "preheat.webhook" .root }}
- name: PREHEAT_SECRET_NAME
  value: {{ include "preheat.certificate" .root }}
- name: PREHEAT_CERTIFICATES
  value: {{ if eq (include "preheat.certificates" .root) "own" }}own{{ else }}given{{ end }}
- name: PREHEAT_WEBHOOK_CONFIGURATION_NAME
  value: {{ include "preheat.fullname" .root }}
- name: PREHEAT_LOG_LEVEL
  value: {{ .root.Values.logging.level }}
- name: PREHEAT_LOG_FORMAT
  value: {{ .root.Values.logging.format }}
{{- if eq .component "webhook" }}
- name: PREHEAT_PORT
  value: {{ .values.port | quote }}
- name: PREHEAT_HEALTH_PORT
  value: {{ .values.healthPort | quote }}
{{- end }}
{{- with .values.extraEnv }}
{{ toYaml . }}
{{- end }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
resources:
  {{- toYaml .values.resources | nindent 2 }}
volumeMounts:
- {name: tmp, mountPath: /tmp}
livenessProbe:
  httpGet: {path: /healthz, port: health}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: health}
  initialDelaySeconds: 2
  periodSeconds: 2
  timeoutSeconds: 5
{{- end }}

{{- /* Pods that are never asked about: the webhook must not stand in its own way, nor in the cluster's. */}}
{{- define "preheat.namespaceSelector" -}}
matchExpressions:
- key: kubernetes.io/metadata.name
  operator: NotIn
  values:
  {{- toYaml (concat (list "kube-system" .Release.Namespace) .Values.webhook.excludedNamespaces | uniq) | nindent 2 }}
{{- end }}

{{- define "preheat.objectSelector" -}}
matchExpressions:
- {key: preheat.dev/pipeline, operator: Exists}
{{- end }}
