{{- /* Names, labels and the texts that more than one template needs. */}}

{{- define "recell.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "recell.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains (include "recell.name" .) .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "recell.name" .) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- /* The operator's pods; never changed, a Deployment's selector is immutable. */}}
{{- define "recell.selectorLabels" -}}
app.kubernetes.io/name: {{ include "recell.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- /* What belongs to the release; a template adds its component. */}}
{{- define "recell.commonLabels" -}}
app.kubernetes.io/name: {{ include "recell.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "recell.labels" -}}
{{ include "recell.commonLabels" . }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "recell.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "recell.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.name: name the ServiceAccount to use, or set serviceAccount.create" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- /* How the API server knows the operator; as a CEL string. */}}
{{- define "recell.username" -}}
'system:serviceaccount:{{ .Release.Namespace }}:{{ include "recell.serviceAccountName" . }}'
{{- end }}

{{- /* "repository:tag" or "repository@digest"; call with (dict "image" … "tag" default tag). */}}
{{- define "recell.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ default .tag .image.tag }}
{{- end }}
{{- end }}

{{- define "recell.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "recell.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- /* Every namespace that the operator may touch, each once; empty when it watches the whole cluster. */}}
{{- define "recell.namespaces" -}}
{{- if .Values.watch.namespaces }}
{{- concat .Values.watch.namespaces .Values.watch.workloadNamespaces | uniq | sortAlpha | toJson }}
{{- else -}}
[]
{{- end }}
{{- end }}
