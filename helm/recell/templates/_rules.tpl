{{- /*
The operator's permissions, one block per feature: a feature that is off gives nothing away.
No wildcards; no Secrets, but kubeconfigs with features.remoteClusters. Verbs are those that the code uses, no more.
*/}}

{{- /* In a fleet namespace: Recell's own kinds, and events about them. */}}
{{- define "recell.rules.fleet" -}}
- apiGroups: [recell.dev]
  resources: [cells, celltemplates, routers, recoveryruns, recoverypolicies, recoveryfreezes, placements]
  verbs: [get, list, watch]
# finalizers, and what has to outlive a status: the history of runs, the UID of the placement
- apiGroups: [recell.dev]
  resources: [cells, routers, recoveryruns]
  verbs: [patch]
- apiGroups: [recell.dev]
  resources: [cells/status, celltemplates/status, routers/status, recoveryruns/status, recoverypolicies/status]
  verbs: [patch]
{{- if .Values.features.cellReplacement }}
# further cells, and those that were made half
- apiGroups: [recell.dev]
  resources: [cells]
  verbs: [create, delete]
{{- end }}
# automatic runs, and the history limits of those
- apiGroups: [recell.dev]
  resources: [recoveryruns]
  verbs: [create, delete]
# never deleted: it is the record of who gets traffic
- apiGroups: [recell.dev]
  resources: [placements]
  verbs: [create, update]
{{ include "recell.rules.events" . }}
{{- end }}

{{- /*
In a fleet namespace: the kubeconfigs of cells in clusters of their own. Each Secret is read by its name, and nothing else
of the namespace's Secrets is asked for.
*/}}
{{- define "recell.rules.remoteClusters" -}}
{{- if .Values.features.remoteClusters -}}
- apiGroups: [""]
  resources: [secrets]
  {{- with .Values.remoteClusters.secrets }}
  resourceNames: {{ toJson . }}
  {{- end }}
  verbs: [list, watch]
{{- end }}
{{- end }}

{{- define "recell.rules.events" -}}
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}

{{- /* Where cells' workloads live: seeing them, and, if the feature is on, labelling and restarting them. */}}
{{- define "recell.rules.workloads" -}}
- apiGroups: [apps]
  resources: [deployments, statefulsets, daemonsets]
  verbs: [get, list, watch{{ if .Values.features.workloadRestart }}, patch{{ end }}]
- apiGroups: [batch]
  resources: [cronjobs]
  verbs: [get, list, watch{{ if .Values.features.workloadRestart }}, patch{{ end }}]
# what is under way of CronJobs that cells name
- apiGroups: [batch]
  resources: [jobs]
  verbs: [list{{ if .Values.features.workloadRestart }}, get, patch{{ end }}]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch{{ if .Values.features.workloadRestart }}, patch{{ end }}]
# slices have the labels of their Service; those that somebody wrote for a Service without selector are labelled
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, list, watch{{ if .Values.features.workloadRestart }}, patch{{ end }}]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
{{- with include "recell.rules.isolation" . }}
{{ . }}
{{- end }}
{{- end }}

{{- /*
Where cells' workloads live: keeping everything from an isolated cell. Deleting cannot be limited to the policies that
the operator made; it deletes those with its labels.
*/}}
{{- define "recell.rules.isolation" -}}
{{- if .Values.features.isolation -}}
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [list, create, patch, delete]
{{- end }}
{{- end }}

{{- /*
Where cells' workloads live: what the ordinary template makes. The operator deletes by its own labels and by UID only; for
other kinds there is the aggregated ClusterRole.
*/}}
{{- define "recell.rules.templates" -}}
{{- if .Values.features.cellReplacement -}}
- apiGroups: [apps]
  resources: [deployments, statefulsets]
  verbs: [create, patch, delete]
- apiGroups: [""]
  resources: [services]
  verbs: [create, patch, delete]
- apiGroups: [""]
  resources: [configmaps, persistentvolumeclaims, serviceaccounts]
  verbs: [get, list, watch, create, patch, delete]
{{- end }}
{{- end }}

{{- /*
Deleting retired cells, once it is proven that nobody needs them: the Cell in a fleet namespace, and where its
workloads live what belonged to it.
*/}}
{{- define "recell.rules.decommission.fleet" -}}
{{- if .Values.features.decommission -}}
- apiGroups: [recell.dev]
  resources: [cells]
  verbs: [delete]
{{- end }}
{{- end }}

{{- define "recell.rules.decommission" -}}
{{- if .Values.features.decommission -}}
- apiGroups: [apps]
  resources: [deployments, statefulsets, daemonsets]
  verbs: [delete]
- apiGroups: [batch]
  resources: [cronjobs]
  verbs: [delete]
# claims by the names of their StatefulSet's templates; the others if they carry the operator's own labels
- apiGroups: [""]
  resources: [persistentvolumeclaims, configmaps]
  verbs: [list, delete]
- apiGroups: [""]
  resources: [services]
  verbs: [delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [list, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [list, delete]
{{- end }}
{{- end }}

{{- /*
In a fleet namespace: the built-in router, which the operator runs. It applies these objects; the garbage collector
takes them away with their Router.
*/}}
{{- define "recell.rules.router" -}}
{{- if .Values.features.haproxyRouter -}}
- apiGroups: [apps]
  resources: [deployments]
  verbs: [create, patch]
- apiGroups: [""]
  resources: [services, serviceaccounts]
  verbs: [create, patch]
# a router pod may read its own Placement and nothing else; the API server lets the operator
# grant only what it holds itself
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [create, patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [create, patch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [create, patch]
{{- end }}
{{- end }}

{{- /*
In a fleet namespace: the HTTPRoutes of Routers, which the garbage collector takes away with them, and the addresses of
Gateways, for trying the customers' way in.
*/}}
{{- define "recell.rules.gatewayApi" -}}
{{- if .Values.features.gatewayApi -}}
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes]
  verbs: [get, list, watch, create, patch]
- apiGroups: [gateway.networking.k8s.io]
  resources: [gateways]
  verbs: [get]
{{- end }}
{{- end }}

{{- /*
In a fleet namespace: what answers in place of the cells behind a Gateway. It needs no ServiceAccount and no Role.
*/}}
{{- define "recell.rules.gatewayShedding" -}}
{{- if .Values.features.gatewayShedding -}}
- apiGroups: [apps]
  resources: [deployments]
  verbs: [create, patch]
- apiGroups: [""]
  resources: [services]
  verbs: [create, patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [create, patch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [create, patch]
{{- end }}
{{- end }}

{{- /*
Fleet namespaces: a router that no restart helps is made anew, and a fallback or what turns requests away that is no
longer asked for goes. Making and patching them comes with recell.rules.router and recell.rules.gatewayShedding.
*/}}
{{- define "recell.rules.routerFailover" -}}
{{- if .Values.features.routerFailover -}}
- apiGroups: [apps]
  resources: [deployments]
  verbs: [delete]
- apiGroups: [""]
  resources: [services]
  verbs: [delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [delete]
{{- end }}
{{- end }}

{{- /*
Where cells' workloads live: snapshots of cells' volumes, and claims made anew from them. The operator deletes claims of
cells that it made, and snapshots that it made and that are not ready.
*/}}
{{- define "recell.rules.volumeSnapshots" -}}
{{- if .Values.features.volumeSnapshots -}}
- apiGroups: [snapshot.storage.k8s.io]
  resources: [volumesnapshots]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, create, delete]
{{- end }}
{{- end }}

{{- /*
Where cells' workloads live: claims that Velero backs up get the label by which their snapshots are known again; its
snapshots are read, and claims of cells that the operator made are made anew from them.
*/}}
{{- define "recell.rules.velero" -}}
{{- if .Values.features.velero -}}
- apiGroups: [snapshot.storage.k8s.io]
  resources: [volumesnapshots]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, create, patch, delete]
{{- end }}
{{- end }}

{{- /*
Where cells' workloads live: data Jobs, made from CronJobs that are there. Whoever may create Jobs may run any pod, so
this is a feature that can be left out.
*/}}
{{- define "recell.rules.dataJobs" -}}
{{- if .Values.features.dataJobs -}}
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
- apiGroups: [batch]
  resources: [cronjobs]
  verbs: [get]
# their progress, and the last words of those that failed
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
{{- end }}
{{- end }}

{{- /*
Where cells' workloads live: PostgreSQL Clusters of CloudNativePG, as templates make them and as they are restored, and
their Backups. Backups are never deleted: what they stand for may go with them.
*/}}
{{- define "recell.rules.cloudNativePG" -}}
{{- if .Values.features.cloudNativePG -}}
- apiGroups: [postgresql.cnpg.io]
  resources: [clusters]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [postgresql.cnpg.io]
  resources: [backups]
  verbs: [get, list, watch, create]
# whether an empty Cluster's volumes are gone, and how a recovery failed
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [list]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [list]
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
{{- end }}
{{- end }}

{{- /*
In a fleet namespace: the DNSEndpoints of Routers, which ExternalDNS publishes. The garbage collector takes them away
with their Router.
*/}}
{{- define "recell.rules.dnsEndpoints" -}}
{{- if .Values.features.dnsEndpoints -}}
- apiGroups: [externaldns.k8s.io]
  resources: [dnsendpoints]
  verbs: [get, list, watch, create, patch]
{{- end }}
{{- end }}
