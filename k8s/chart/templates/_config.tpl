{{/* A value as TOML has it. Helm's own toToml writes every number as a float. */}}
{{- define "duet.tomlValue" -}}
{{- if kindIs "map" . -}}
{ {{- range $i, $key := keys . | sortAlpha }}{{ if $i }},{{ end }} {{ $key }} = {{ include "duet.tomlValue" (index $ $key) }}{{ end }} }
{{- else if kindIs "float64" . -}}
{{ if eq (floor .) . }}{{ printf "%.0f" . }}{{ else }}{{ . }}{{ end }}
{{- else if kindIs "slice" . -}}
[{{ range $i, $value := . }}{{ if $i }}, {{ end }}{{ include "duet.tomlValue" $value }}{{ end }}]
{{- else if kindIs "string" . -}}
{{ toJson . }}
{{- else -}}
{{ . }}
{{- end -}}
{{- end }}

{{- define "duet.tomlSection" -}}
{{- if .keys }}

[{{ .name }}]
{{- range $key, $value := .keys }}
{{ $key }} = {{ include "duet.tomlValue" $value }}
{{- end }}
{{- end -}}
{{- end }}

{{/* duet.toml: what the values set, and nothing else. */}}
{{- define "duet.toml" -}}
{{- $kafka := .Values.kafka -}}
{{- $sections := deepCopy .Values.config -}}
{{- $_ := set $sections "http" (merge (dict "listen" "0.0.0.0:8080") ($sections.http | default dict)) -}}
{{- $_ := set $sections "models" (dict "dir" (eq .Values.models.from "image" | ternary "/usr/share/duet/models" "/models")) -}}
{{- $url := "file:///var/lib/duet/blobs" -}}
{{- with .Values.blob }}{{ if eq .from "s3" }}{{ $url = printf "s3://%s/%s" .s3.bucket .s3.prefix | trimSuffix "/" }}{{ end }}{{ end -}}
{{- $_ := set $sections "blob" (dict "url" $url "timeout_ms" .Values.blob.timeoutMs) -}}
{{- $_ := set $sections "prepare" (merge (dict "pseudonym_key_file" "/etc/duet/pseudonym/key" "sealing_key_file" "/etc/duet/sealing/keys") ($sections.prepare | default dict)) -}}
{{- $_ := set $sections "publish" (merge (dict "sealing_key_file" "/etc/duet/sealing/keys") ($sections.publish | default dict)) -}}
{{- if ne $kafka.mode "embedded" -}}
{{- $keys := dict "bootstrap" (include "duet.bootstrap" .) "topic_prefix" $kafka.topicPrefix "partitions" $kafka.partitions -}}
{{- $keys = merge $keys (dict "replication_factor" $kafka.replicationFactor "max_message_bytes" $kafka.maxMessageBytes) -}}
{{- $keys = merge $keys (dict "guarded_retention_hours" $kafka.guardedRetentionHours "buffer_bytes" $kafka.bufferBytes) -}}
{{- $_ := set $sections "kafka" $keys -}}
{{- end -}}
# Made from the chart's values.
{{- range $name := keys $sections | sortAlpha }}
{{- include "duet.tomlSection" (dict "name" $name "keys" (index $sections $name)) }}
{{- end }}
{{ end }}

{{/* How Kafka is reached, wherever it comes from: protocol, mechanism and Secrets. */}}
{{- define "duet.security" -}}
{{- $kafka := .root.Values.kafka -}}
{{- if ne $kafka.mode "strimzi" -}}
{{ toYaml $kafka.security }}
{{- else -}}
{{- $user := include "duet.nameOf" . -}}
{{- $isTls := eq $kafka.strimzi.authentication "tls" -}}
protocol: {{ $isTls | ternary "ssl" "sasl_ssl" }}
mechanism: SCRAM-SHA-512
user: {secret: {{ $isTls | ternary "" $user | quote }}, name: {{ $user }}, passwordKey: password}
authority: {secret: {{ $kafka.strimzi.cluster }}-cluster-ca-cert, key: ca.crt}
certificate: {secret: {{ $isTls | ternary $user "" | quote }}, certificateKey: user.crt, privateKey: user.key}
{{- end -}}
{{- end }}
