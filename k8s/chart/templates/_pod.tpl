{{/* A pod that runs `duet` with `.args` and the rights of the service `.name`. */}}
{{- define "duet.pod" -}}
{{- $v := .root.Values -}}
{{- $security := include "duet.security" . | fromYaml -}}
{{- $hasKafka := ne $v.kafka.mode "embedded" -}}
{{- $hasTls := and .row.web $v.tls.secret -}}
{{- $scheme := empty $hasTls | ternary "HTTP" "HTTPS" -}}
serviceAccountName: {{ include "duet.fullname" .root }}
automountServiceAccountToken: false
# Variables for every Service of the namespace are of no use here.
enableServiceLinks: false
{{- with $v.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with $v.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $v.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if and .row.models (eq $v.models.from "fetch") }}
initContainers:
  - name: models
    image: {{ $v.models.fetch.image }}
    imagePullPolicy: IfNotPresent
    securityContext: {{- include "duet.confined" . | nindent 6 }}
    env:
      - {name: URL, value: {{ $v.models.fetch.url | quote }}}
      - {name: SHA256, value: {{ $v.models.fetch.sha256 | quote }}}
    command: [sh, -euc]
    args:
      - |
        curl --fail --silent --show-error --location --retry 5 --output /tmp/models.tar.gz "$URL"
        if ! echo "$SHA256  /tmp/models.tar.gz" | sha256sum -c - >/dev/null; then
          echo "models.fetch: $URL has SHA-256 $(sha256sum /tmp/models.tar.gz | cut -d' ' -f1), not $SHA256" >&2
          exit 1
        fi
        tar -xzf /tmp/models.tar.gz -C /models
    resources: {requests: {cpu: 50m, memory: 64Mi}, limits: {memory: 256Mi}}
    volumeMounts:
      - {name: models, mountPath: /models}
      - {name: tmp, mountPath: /tmp}
{{- end }}
containers:
  - name: duet
    image: {{ include "duet.image" .root }}
    imagePullPolicy: {{ $v.image.pullPolicy }}
    args: {{ toJson .args }}
    securityContext: {{- include "duet.confined" . | nindent 6 }}
    env:
      - {name: DUET_CONFIG, value: /etc/duet/duet.toml}
      {{- if $hasKafka }}
      {{- with $security.user }}
      {{- if and .secret (hasPrefix "sasl" $security.protocol) }}
      {{- if .name }}
      - {name: DUET_KAFKA_SASL_USERNAME, value: {{ .name }}}
      {{- else }}
      - name: DUET_KAFKA_SASL_USERNAME
        valueFrom: {secretKeyRef: {name: {{ .secret }}, key: {{ .usernameKey }}}}
      {{- end }}
      - name: DUET_KAFKA_SASL_PASSWORD
        valueFrom: {secretKeyRef: {name: {{ .secret }}, key: {{ .passwordKey }}}}
      {{- end }}
      {{- end }}
      {{- if $hasTls }}
      # Not in duet.toml, which the stages read too: their probes and metrics are in clear.
      - {name: DUET_HTTP_TLS_CERT_FILE, value: /etc/duet/tls/tls.crt}
      - {name: DUET_HTTP_TLS_KEY_FILE, value: /etc/duet/tls/tls.key}
      {{- if $v.tls.authorityKey }}
      - {name: DUET_HTTP_TLS_CLIENT_CA_FILE, value: /etc/duet/tls/ca.crt}
      {{- end }}
      {{- end }}
      {{- if hasPrefix "sasl" $security.protocol }}
      - {name: DUET_KAFKA_SASL_MECHANISM, value: {{ $security.mechanism }}}
      {{- end }}
      {{- if hasSuffix "ssl" $security.protocol }}
      - {name: DUET_KAFKA_TLS_ENABLED, value: "true"}
      {{- if $security.authority.secret }}
      - {name: DUET_KAFKA_TLS_CA_FILE, value: /etc/duet/kafka-authority/ca.crt}
      {{- end }}
      {{- if $security.certificate.secret }}
      - {name: DUET_KAFKA_TLS_CERT_FILE, value: /etc/duet/kafka-certificate/tls.crt}
      - {name: DUET_KAFKA_TLS_KEY_FILE, value: /etc/duet/kafka-certificate/tls.key}
      {{- end }}
      {{- end }}
      {{- end }}
      {{- if and .row.backend $v.backend.secret }}
      - name: DUET_TRIAGE_BACKEND_API_KEY
        valueFrom: {secretKeyRef: {name: {{ $v.backend.secret }}, key: {{ $v.backend.key }}}}
      {{- end }}
      {{- if eq $v.blob.from "s3" }}
      {{- with $v.blob.s3 }}
      - {name: AWS_REGION, value: {{ .region }}}
      {{- with .endpoint }}
      - {name: AWS_ENDPOINT_URL, value: {{ . | quote }}}
      {{- if hasPrefix "http://" . }}
      - {name: AWS_ALLOW_HTTP, value: "true"}
      {{- end }}
      {{- end }}
      {{- if .secret }}
      - name: AWS_ACCESS_KEY_ID
        valueFrom: {secretKeyRef: {name: {{ .secret }}, key: {{ .accessKeyIdKey }}}}
      - name: AWS_SECRET_ACCESS_KEY
        valueFrom: {secretKeyRef: {name: {{ .secret }}, key: {{ .secretAccessKeyKey }}}}
      {{- end }}
      {{- end }}
      {{- end }}
    {{- if not .isJob }}
    ports:
      - {name: http, containerPort: 8080}
    # /healthz answers while models load and Kafka is joined; /readyz only afterwards, and says what is missing.
    startupProbe: {httpGet: {path: /healthz, port: http, scheme: {{ $scheme }}}, periodSeconds: 2, failureThreshold: 30}
    livenessProbe: {httpGet: {path: /healthz, port: http, scheme: {{ $scheme }}}, periodSeconds: 10, timeoutSeconds: 3, failureThreshold: 6}
    readinessProbe: {httpGet: {path: /readyz, port: http, scheme: {{ $scheme }}}, periodSeconds: 5, timeoutSeconds: 3}
    {{- if .row.web }}
    # New requests stop coming first, then the order to stop.
    lifecycle: {preStop: {sleep: {seconds: 5}}}
    {{- end }}
    {{- end }}
    resources: {{- toYaml .resources | nindent 6 }}
    volumeMounts:
      - {name: config, mountPath: /etc/duet/duet.toml, subPath: duet.toml, readOnly: true}
      - {name: tmp, mountPath: /tmp}
      {{- if $hasTls }}
      # The folder and no single file of it: what is mounted by subPath is never renewed.
      - {name: tls, mountPath: /etc/duet/tls, readOnly: true}
      {{- end }}
      {{- if and (eq $v.blob.from "claim") (not .isJob) }}
      - {name: blobs, mountPath: /var/lib/duet/blobs}
      {{- end }}
      {{- if .row.secret }}
      - {name: pseudonym, mountPath: /etc/duet/pseudonym, readOnly: true}
      {{- end }}
      {{- if .row.seals }}
      # The folder: a rotated file is seen without a restart.
      - {name: sealing, mountPath: /etc/duet/sealing, readOnly: true}
      {{- end }}
      {{- if and .row.models (ne $v.models.from "image") }}
      - {name: models, mountPath: /models, readOnly: true{{ if eq $v.models.from "claim" }}{{ with $v.models.claim.subPath }}, subPath: {{ . }}{{ end }}{{ end }}}
      {{- end }}
      {{- if and $hasKafka $security.authority.secret }}
      - {name: kafka-authority, mountPath: /etc/duet/kafka-authority, readOnly: true}
      {{- end }}
      {{- if and $hasKafka $security.certificate.secret }}
      - {name: kafka-certificate, mountPath: /etc/duet/kafka-certificate, readOnly: true}
      {{- end }}
volumes:
  - name: config
    configMap: {name: {{ include "duet.fullname" .root }}-config}
  - name: tmp
    emptyDir: {sizeLimit: 1Gi}
  {{- if $hasTls }}
  - name: tls
    secret:
      secretName: {{ $v.tls.secret }}
      items:
        - {key: {{ $v.tls.certificateKey }}, path: tls.crt}
        - {key: {{ $v.tls.privateKey }}, path: tls.key}
        {{- with $v.tls.authorityKey }}
        - {key: {{ . }}, path: ca.crt}
        {{- end }}
      defaultMode: 0440
  {{- end }}
  {{- if and (eq $v.blob.from "claim") (not .isJob) }}
  - name: blobs
    persistentVolumeClaim: {claimName: {{ include "duet.blobClaim" .root }}}
  {{- end }}
  {{- if .row.secret }}
  - name: pseudonym
    secret:
      secretName: {{ $v.pseudonymKey.secret }}
      items: [{key: {{ $v.pseudonymKey.key }}, path: key}]
      defaultMode: 0440
  {{- end }}
  {{- if .row.seals }}
  - name: sealing
    secret:
      secretName: {{ $v.sealingKeys.secret }}
      items: [{key: {{ $v.sealingKeys.key }}, path: keys}]
      defaultMode: 0440
  {{- end }}
  {{- if and .row.models (eq $v.models.from "claim") }}
  - name: models
    persistentVolumeClaim: {claimName: {{ $v.models.claim.name }}, readOnly: true}
  {{- else if and .row.models (eq $v.models.from "fetch") }}
  - name: models
    emptyDir: {sizeLimit: 4Gi}
  {{- end }}
  {{- with $security.authority }}
  {{- if and $hasKafka .secret }}
  - name: kafka-authority
    secret: {secretName: {{ .secret }}, items: [{key: {{ .key }}, path: ca.crt}], defaultMode: 0440}
  {{- end }}
  {{- end }}
  {{- with $security.certificate }}
  {{- if and $hasKafka .secret }}
  - name: kafka-certificate
    secret:
      secretName: {{ .secret }}
      items: [{key: {{ .certificateKey }}, path: tls.crt}, {key: {{ .privateKey }}, path: tls.key}]
      defaultMode: 0440
  {{- end }}
  {{- end }}
{{- end }}

{{- define "duet.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}
