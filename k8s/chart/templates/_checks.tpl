{{/* What a schema cannot say: values that do not go together, each refused with what to do. */}}
{{- define "duet.check" -}}
{{- $v := .Values -}}
{{- $kafka := $v.kafka -}}
{{- if and (eq $kafka.mode "external") (not $kafka.bootstrap) -}}
{{- fail "kafka.bootstrap is empty: set it to host:port of your cluster, or kafka.mode to strimzi, or take presets/edge.yaml" -}}
{{- end -}}
{{- if and (eq $kafka.mode "embedded") (ne $v.mode "all") -}}
{{- fail "kafka.mode is embedded, a broker within one process: it needs mode: all" -}}
{{- end -}}
{{- if and (eq $kafka.mode "embedded") (gt (int $v.services.all.replicas) 1) -}}
{{- fail "services.all.replicas is more than 1, but with kafka.mode: embedded each replica would have a broker of its own" -}}
{{- end -}}
{{- if and $kafka.createTopics (ne $kafka.mode "external") -}}
{{- fail "kafka.createTopics is for kafka.mode: external; Strimzi is told the topics, and the embedded broker makes its own" -}}
{{- end -}}
{{- if and (eq $kafka.mode "external") (hasPrefix "sasl" $kafka.security.protocol) (not $kafka.security.user.secret) -}}
{{- fail (printf "kafka.security.user.secret is empty, but kafka.security.protocol is %s: name the Secret with the user's name and password" $kafka.security.protocol) -}}
{{- end -}}
{{- if and (eq $kafka.mode "external") (eq $kafka.security.protocol "sasl_plaintext") (eq $kafka.security.mechanism "PLAIN") -}}
{{- fail "kafka.security.mechanism is PLAIN without TLS: the password would go over the network in clear. Set kafka.security.protocol to sasl_ssl, or take SCRAM-SHA-512" -}}
{{- end -}}
{{- if not $v.config.http.behind_proxy -}}
{{- if not $v.config.http.tokens -}}
{{- fail "config.http.tokens is empty: anybody in the cluster could send and read films. Add what `duet tokens new` prints, or set config.http.behind_proxy: true where an ingress or a mesh lets in only who may" -}}
{{- end -}}
{{- if not $v.tls.secret -}}
{{- fail "tls.secret is empty: name the Secret with the certificate and key of the gateway and the page, or set config.http.behind_proxy: true where an ingress or a mesh does TLS" -}}
{{- end -}}
{{- end -}}
{{- if and $v.tls.authorityKey (not $v.tls.secret) -}}
{{- fail "tls.authorityKey is set, but tls.secret is empty: name the Secret that has it" -}}
{{- end -}}
{{- if and (eq $v.blob.from "s3") (not $v.blob.s3.bucket) -}}
{{- fail "blob.s3.bucket is empty: name the bucket, or set blob.from to claim" -}}
{{- end -}}
{{- if and (eq $v.models.from "claim") (not $v.models.claim.name) -}}
{{- fail "models.claim.name is empty: name the PersistentVolumeClaim that holds the models" -}}
{{- end -}}
{{- if and (eq $v.models.from "fetch") (not (and $v.models.fetch.url $v.models.fetch.sha256)) -}}
{{- fail "models.fetch needs both url and sha256" -}}
{{- end -}}
{{- range $name, $row := include "duet.rows" . | fromYaml -}}
{{- $service := index $v.services $name -}}
{{- $scaler := include "duet.scaler" (dict "root" $ "name" $name "row" $row) -}}
{{- $most := empty $scaler | ternary $service.replicas $service.scaling.max | int -}}
{{- if and $row.reads (gt $most (int $kafka.partitions)) -}}
{{- fail (printf "services.%s may have %d replicas, but kafka.partitions is %d: more replicas than partitions have nothing to do" $name $most (int $kafka.partitions)) -}}
{{- end -}}
{{- if gt (int $service.scaling.min) (int $service.scaling.max) -}}
{{- fail (printf "services.%s.scaling.min is more than its max" $name) -}}
{{- end -}}
{{- end -}}
{{- end }}
