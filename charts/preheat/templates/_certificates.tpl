{{- /* Who makes the webhook's certificate: "own" (the webhook), "cert-manager", or "given" (a Secret that somebody keeps). */}}
{{- define "preheat.certificates" -}}
{{- with .Values.certificates }}
{{- if and .certManager.enabled .existingSecret }}
{{- fail "certificates: choose one of certManager.enabled and existingSecret" }}
{{- else if and .existingSecret (not .caBundle) (not .annotations) }}
{{- fail "certificates.existingSecret: name in caBundle the authority (PEM) that issued its certificate, or in annotations who injects it" }}
{{- else if and .caBundle (not .existingSecret) }}
{{- fail "certificates.caBundle: belongs to a certificate in existingSecret; otherwise the authority is published by who makes it" }}
{{- end }}
{{- if .certManager.enabled }}cert-manager{{ else if .existingSecret }}given{{ else }}own{{ end }}
{{- end }}
{{- end }}

{{- /* The Secret that holds it. */}}
{{- define "preheat.certificate" -}}
{{- $maker := include "preheat.certificates" . }}
{{- if eq $maker "own" }}{{ include "preheat.webhook" . }}-certificate
{{- else if eq $maker "cert-manager" }}{{ include "preheat.webhook" . }}-tls
{{- else }}{{ .Values.certificates.existingSecret }}
{{- end }}
{{- end }}
