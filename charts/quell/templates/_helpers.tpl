{{/* Name of everything that the chart makes: that of the release, with `quell` in it. */}}
{{- define "quell.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains "quell" .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-quell" .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "quell.selector" -}}
app.kubernetes.io/name: quell
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "quell.labels" -}}
{{ include "quell.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "quell.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "quell.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name is needed where serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "quell.image" -}}
{{- $tag := default .Chart.AppVersion .Values.image.tag -}}
{{- printf "%s:%s" .Values.image.repository $tag -}}
{{- with .Values.image.digest }}{{ printf "@%s" . }}{{ end -}}
{{- end -}}

{{- define "quell.severImage" -}}
{{- default (include "quell.image" .) .Values.sever.image -}}
{{- end -}}

{{- define "quell.probeImage" -}}
{{- default (include "quell.image" .) .Values.probe.image -}}
{{- end -}}

{{- define "quell.tlsSecret" -}}
{{- default (printf "%s-ingest-tls" (include "quell.fullname" .)) .Values.ingest.tls.existingSecret -}}
{{- end -}}

{{- define "quell.tokenSecret" -}}
{{- default (printf "%s-source-falco" (include "quell.fullname" .)) .Values.falco.token.existingSecret -}}
{{- end -}}

{{- define "quell.tokenKey" -}}
{{- if .Values.falco.token.existingSecret -}}{{ .Values.falco.token.key }}{{- else -}}token{{- end -}}
{{- end -}}

{{/*
Annotations of an object of one of Quell's kinds. Where the API server doesn't serve the kind yet, Helm would refuse the whole release: it
looks at everything before it creates anything. Then the object is a hook that runs last, and says whose it is, so that the first upgrade
takes it over as an object of the release like any other.
*/}}
{{- define "quell.ownKind" -}}
{{- if and .Values.crds.install (not (.Capabilities.APIVersions.Has "quell.dev/v1alpha1/Source")) -}}
helm.sh/hook: post-install,post-upgrade
meta.helm.sh/release-name: {{ .Release.Name }}
meta.helm.sh/release-namespace: {{ .Release.Namespace }}
{{- end -}}
{{- end -}}

{{/* Whether CRDs are there that another release owns, or nobody: then this one doesn't upgrade them. */}}
{{- define "quell.crdsOfOthers" -}}
{{- $there := lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" "findings.quell.dev" -}}
{{- $owner := dig "metadata" "annotations" dict $there -}}
{{- if and $there (or (ne (get $owner "meta.helm.sh/release-name") .Release.Name) (ne (get $owner "meta.helm.sh/release-namespace") .Release.Namespace)) -}}
yes
{{- end -}}
{{- end -}}
