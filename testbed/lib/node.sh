# A node: containerd, kubelet and kube-proxy in a network namespace of their own.

node_containers_up() { # node pause-tar: the container runtime, with the image that holds a pod's namespaces
  local n=$1 d=$ROOT/node$1
  mkdir -p "$d/cni" "$d/kubelet" "$d/volumes" "$d/loaded"
  # ptp, not bridge: pods of one node reach each other by routing too, so Services work between them without br_netfilter.
  cat >"$d/cni/10-pods.conflist" <<C
{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "ptp", "ipMasq": false, "ipam": {"type": "host-local", "dataDir": "$d/ipam",
    "ranges": [[{"subnet": "$(pods_of "$n")"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
C
  cat >"$d/containerd.toml" <<C
version = 2
root = "$d/containerd"
state = "$d/run"
[grpc]
  address = "$d/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  # Works without CAP_SYS_RESOURCE, in containers and sandboxes.
  restrict_oom_score_adj = true
  # Below the node's directory, so that they go away with the node.
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$(cni_plugins)"
    conf_dir = "$d/cni"
[plugins."io.containerd.internal.v1.opt"]
  path = "$d/opt"
C
  spawn "node$n" "containerd$n" "$(node_ns "$n")" containerd -c "$d/containerd.toml"
  await "containerd of node $n" node_ctr "$n" version
  [ -z "${2:-}" ] || node_ctr "$n" images import "$2" >/dev/null
}

cni_plugins() {
  local directory
  for directory in /usr/lib/cni /opt/cni/bin /usr/libexec/cni; do
    [ ! -x "$directory/ptp" ] || { echo "$directory"; return; }
  done
  echo "no CNI plugins found: install containernetworking-plugins" >&2
  return 1
}

node_ctr() { # node arguments...
  local n=$1
  shift
  ctr -a "$ROOT/node$n/containerd.sock" -n k8s.io "$@"
}

node_kubelet_up() { # node
  local n=$1 d=$ROOT/node$1
  cat >"$d/kubelet.yaml" <<C
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
failSwapOn: false
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
containerRuntimeEndpoint: unix://$d/containerd.sock
# The namespace is the boundary here: nothing outside of it reaches a kubelet.
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
resolvConf: $ROOT/resolv.conf
nodeStatusUpdateFrequency: 4s
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 50Mi}
syncFrequency: 5s
podLogsDir: $d/podlogs
C
  spawn "node$n" "kubelet$n" "$(node_ns "$n")" "$(binary kubelet)" --config "$d/kubelet.yaml" \
    --kubeconfig "$ROOT/kubelet$n.kubeconfig" --root-dir "$d/kubelet" --cert-dir "$d/kubelet/pki" \
    --hostname-override "node$n" --node-ip "$(node_ip "$n")" \
    --node-labels "topology.kubernetes.io/zone=zone-$n,topology.kubernetes.io/region=local"
  kube_proxy_up "node$n" "$n" "$(node_ns "$n")" primary
}

kube_proxy_up() { # group node namespace nodeport-addresses
  local config=$ROOT/proxy-$3.yaml
  cat >"$config" <<C
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clusterCIDR: 10.244.0.0/16
clientConnection: {kubeconfig: $ROOT/proxy.kubeconfig}
hostnameOverride: node$2
nodePortAddresses: ["$4"]
conntrack: {maxPerCore: 0}
C
  spawn "$1" "proxy-$3" "$3" "$(binary kube-proxy)" --config "$config"
}

node_kill() { # node: as when the power goes: processes, link and everything in memory
  local n=$1 d=$ROOT/node$1
  in_ns "$(node_ns "$n")" ip link set eth0 down
  kill_group "node$n"
  unmount_below "$d"
  rm -rf "$d/run" "$d/containerd.sock"
}

node_start() { # node
  local n=$1
  [ ! -S "$ROOT/node$n/containerd.sock" ] || { echo "Node $n is on already."; return; }
  in_ns "$(node_ns "$n")" ip link set eth0 up
  routes "$n"
  node_containers_up "$n"
  node_kubelet_up "$n"
}
