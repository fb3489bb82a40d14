{{/* The stem of all names: the release's name, with the chart's in it. */}}
{{- define "cachecluster.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "cachecluster.operator" -}}
{{- printf "%s-operator" (include "cachecluster.fullname" .) -}}
{{- end -}}

{{- define "cachecluster.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "cachecluster.operator" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* What selects the operator's pods. Never changes: Kubernetes forbids it. */}}
{{- define "cachecluster.selector" -}}
app.kubernetes.io/name: cachecluster-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "cachecluster.labels" -}}
{{- $own := list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/version" "app.kubernetes.io/part-of" "app.kubernetes.io/managed-by" "helm.sh/chart" -}}
{{- range $key, $_ := .Values.commonLabels -}}
{{- if has $key $own -}}
{{- fail (printf "commonLabels: %s is set by the chart: choose another key" $key) -}}
{{- end -}}
{{- end -}}
{{ include "cachecluster.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: cachecluster
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* An image's reference: (list $ "operator"). */}}
{{- define "cachecluster.image" -}}
{{- $root := index . 0 -}}
{{- $image := $root.Values.image -}}
{{- $repository := get $image (index . 1) -}}
{{- if $image.registry -}}{{ $image.registry }}/{{- end -}}
{{ $repository }}:{{ default $root.Chart.AppVersion $image.tag }}
{{- end -}}

{{/* The namespace in which `helm test` makes its CacheCluster: one that the operator serves. */}}
{{- define "cachecluster.testNamespace" -}}
{{- if or (empty .Values.watchNamespaces) (has .Release.Namespace .Values.watchNamespaces) -}}
{{- .Release.Namespace -}}
{{- else -}}
{{- first .Values.watchNamespaces -}}
{{- end -}}
{{- end -}}

{{- define "cachecluster.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "cachecluster.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/*
What the operator may do in a namespace that it serves: what it does, and no more. It deletes nothing: what belongs to
a CacheCluster goes with it by owner references.
*/}}
{{- define "cachecluster.rules" -}}
- apiGroups: [cachecluster.io]
  resources: [cacheclusters]
  verbs: [get, list, watch]
- apiGroups: [cachecluster.io]
  resources: [cacheclusters/status]
  verbs: [patch]
# To be named as an owner that blocks its deletion (admission plugin OwnerReferencesPermissionEnforcement).
- apiGroups: [cachecluster.io]
  resources: [cacheclusters/finalizers]
  verbs: [update]
- apiGroups: [apps]
  resources: [deployments, statefulsets]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [configmaps, serviceaccounts, services]
  verbs: [get, list, watch, create, patch]
# Generated passwords are created once, and put back where somebody edited them; those that users bring are read.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, patch]
# The patch marks the primary's pod for the Service <name>-primary.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, patch]
# An API pod of a node that is gone is marked as not ready, sooner than Kubernetes does it.
- apiGroups: [""]
  resources: [pods/status]
  verbs: [patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
