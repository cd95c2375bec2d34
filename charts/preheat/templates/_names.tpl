{{- define "preheat.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "preheat.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "preheat.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "preheat.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "preheat.controller" -}}{{ include "preheat.fullname" . }}-controller{{- end }}
{{- define "preheat.webhook" -}}{{ include "preheat.fullname" . }}-webhook{{- end }}

{{- /* Two: what one process may do the other must not. */}}
{{- define "preheat.controllerAccount" -}}
{{- include "preheat.account" (list "controller" .Values.controller.serviceAccount (include "preheat.controller" .)) }}
{{- end }}
{{- define "preheat.webhookAccount" -}}
{{- $account := include "preheat.account" (list "webhook" .Values.webhook.serviceAccount (include "preheat.webhook" .)) }}
{{- if eq $account (include "preheat.controllerAccount" .) }}
{{- fail "webhook.serviceAccount.name: is the controller's; each process has rights that the other must not have" }}
{{- end }}
{{- $account }}
{{- end }}
{{- define "preheat.account" -}}
{{- $values := index . 1 }}
{{- if and (eq (toString $values.create) "false") (not $values.name) }}
{{- fail (printf "%s.serviceAccount.name: name the ServiceAccount that is there, or have it created" (index . 0)) }}
{{- end }}
{{- default (index . 2) $values.name }}
{{- end }}

{{- define "preheat.selector" -}}
app.kubernetes.io/name: {{ include "preheat.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "preheat.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: preheat
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{ include "preheat.selector" . }}
{{- end }}

{{- define "preheat.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end }}
{{- end }}
