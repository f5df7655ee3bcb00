{{- define "duet.fullname" -}}
{{- $name := .Release.Name -}}
{{- if not (contains "duet" $name) }}{{ $name = printf "%s-duet" $name }}{{ end -}}
{{ trunc 40 $name | trimSuffix "-" }}
{{- end }}

{{- define "duet.nameOf" -}}
{{ include "duet.fullname" .root }}-{{ .name }}
{{- end }}

{{- define "duet.selector" -}}
app.kubernetes.io/name: duet
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .name }}
{{- end }}

{{- define "duet.labels" -}}
{{ include "duet.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "duet.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end -}}
{{- end -}}
{{- end }}

{{- define "duet.blobClaim" -}}
{{ .Values.blob.claim.name | default (printf "%s-blobs" (include "duet.fullname" .)) }}
{{- end }}

{{- define "duet.bootstrap" -}}
{{- with .Values.kafka -}}
{{- if eq .mode "strimzi" -}}
{{ .strimzi.cluster }}-kafka-bootstrap.{{ $.Release.Namespace }}.svc:{{ .strimzi.port | int }}
{{- else -}}
{{ .bootstrap }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Ports of the servers in a list of addresses, as numbers with commas between, each once. */}}
{{- define "duet.ports" -}}
{{- $ports := list -}}
{{- range splitList "," . }}{{ $ports = append $ports (regexFind "[0-9]+$" (trim .)) }}{{ end -}}
{{ uniq $ports | join "," }}
{{- end }}
