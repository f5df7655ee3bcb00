{{/*
What each service is: everything that the templates make follows from this table. A new service is a row here and its
figures under `services` in values.yaml.

  web      serves people or other programs; the others serve probes and metrics alone
  reads    topics that it takes its work from, in a consumer group of its own
  follows  topics that it shows, in no group
  writes   topics that it writes
  models   needs the folder of models
  secret   needs the key of the pseudonyms
  backend  asks the generalist's server, where it runs on one
  seals    needs the keys of sealed identifiers
*/}}
{{- define "duet.table" -}}
gateway:
  web: true
  follows: [prepared, flagged, cleared, out-of-scope, assessed, reports, dead-letters, redriven]
  writes: [images]
prepare:
  reads: [images]
  writes: [prepared, out-of-scope, dead-letters]
  secret: true
  seals: true
triage:
  reads: [prepared]
  writes: [flagged, cleared, out-of-scope, dead-letters]
  models: true
  backend: true
specialist:
  reads: [flagged]
  writes: [assessed, dead-letters]
  models: true
publish:
  reads: [assessed, cleared, out-of-scope]
  writes: [reports, annotated, dead-letters]
  seals: true
review:
  web: true
  follows: [prepared, flagged, cleared, out-of-scope, assessed, reports, dead-letters, redriven]
{{- end }}

{{/* The rows that become Deployments: the table's, or the one that runs all of it. */}}
{{- define "duet.rows" -}}
{{- if eq .Values.mode "all" -}}
all: {web: true, models: true, secret: true, seals: true, backend: true}
{{- else -}}
{{ include "duet.table" . }}
{{- end -}}
{{- end }}

{{/* The rows whose rights a Deployment needs, by its name: its own, or all. */}}
{{- define "duet.rightsOf" -}}
{{- $table := include "duet.table" .root | fromYaml -}}
{{- if eq .name "all" }}{{ toYaml $table }}{{ else }}{{ toYaml (pick $table .name) }}{{ end -}}
{{- end }}

{{/* Every topic; the guarded ones may hold what identifies a patient, of the compacted ones each key is kept for good. */}}
{{- define "duet.topics" -}}
images: {guarded: true}
prepared: {}
flagged: {}
cleared: {}
out-of-scope: {}
assessed: {}
reports: {}
annotated: {}
dead-letters: {guarded: true}
redriven: {compacted: true}
{{- end }}

{{/* Consumer group of a stage. */}}
{{- define "duet.group" -}}
{{ regexReplaceAll "[.]+$" .root.Values.kafka.topicPrefix "" }}-{{ .name }}
{{- end }}

{{/* What scales a Deployment: keda, hpa or nothing. */}}
{{- define "duet.scaler" -}}
{{- $by := .root.Values.autoscaling.by -}}
{{- $scaling := (index .root.Values.services .name).scaling -}}
{{- if and (eq $by "lag") .row.reads -}}
keda
{{- else if and (ne $by "none") (gt (int $scaling.max) (max 1 (int $scaling.min))) -}}
hpa
{{- end -}}
{{- end }}
