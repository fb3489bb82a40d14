# The control plane, in the namespace that also holds the bridge between the nodes.

binary() { # name: the path of a program that `binaries` builds
  "$here/binaries" path "$1"
}

kc() { KUBECONFIG=$ROOT/admin.kubeconfig in_ns $LAN "$(binary kubectl)" "$@"; }

control_plane_up() {
  # No fsync: its data need not survive the machine.
  spawn control-plane etcd $LAN etcd --data-dir "$ROOT/etcd" --unsafe-no-fsync \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380
  apiserver_start

  local config=$ROOT/kcm.kubeconfig
  # A lost node is seen after 16 s (nodes report every 4 s) instead of Kubernetes' 50 s: scenarios wait less.
  spawn control-plane controller-manager $LAN "$(binary kube-controller-manager)" --leader-elect=false \
    --kubeconfig "$config" --authentication-kubeconfig "$config" --authorization-kubeconfig "$config" \
    --service-account-private-key-file "$ROOT/pki/sa.key" --root-ca-file "$ROOT/pki/ca.crt" \
    --use-service-account-credentials --node-monitor-grace-period 16s
  config=$ROOT/scheduler.kubeconfig
  spawn control-plane scheduler $LAN "$(binary kube-scheduler)" --leader-elect=false \
    --kubeconfig "$config" --authentication-kubeconfig "$config" --authorization-kubeconfig "$config"
  # For the API server and the forwards: Services and NodePorts work here whichever nodes are on.
  kube_proxy_up control-plane 1 $LAN $CP/32
  dns_up
  kc apply -f "$here/lib/storage-class.yaml" >/dev/null
}

apiserver_start() {
  spawn control-plane apiserver $LAN "$(binary kube-apiserver)" --etcd-servers http://127.0.0.1:2379 \
    --secure-port 6443 --advertise-address $CP --service-cluster-ip-range 10.96.0.0/16 \
    --tls-cert-file "$ROOT/pki/api.crt" --tls-private-key-file "$ROOT/pki/api.key" --cert-dir "$ROOT/pki" \
    --service-account-key-file "$ROOT/pki/sa.pub" --service-account-signing-key-file "$ROOT/pki/sa.key" \
    --service-account-issuer https://kubernetes.default.svc.cluster.local \
    --token-auth-file "$ROOT/pki/tokens.csv" --authorization-mode Node,RBAC \
    --allow-privileged --kubelet-preferred-address-types InternalIP
  await "the API server" kc get --raw /readyz
}

# SIGKILL: as when its machine is gone. Everything else of the control plane goes on and finds it gone.
apiserver_stop() {
  local pid
  for pid in $(cat "$tracking/control-plane/cgroup.procs"); do
    # Names of processes have 15 letters at most.
    [ "$(cat "/proc/$pid/comm" 2>/dev/null)" != kube-apiserver ] || kill -KILL "$pid"
  done
  await "the API server's end" apiserver_is_gone
}

apiserver_is_gone() { ! kc get --raw /livez; }

dns_up() {
  echo "nameserver 10.96.0.10" >"$ROOT/resolv.conf"
  cat >"$ROOT/dns/Corefile" <<C
.:53 {
  bind $CP
  errors
  ready 127.0.0.1:8181
  kubernetes cluster.local in-addr.arpa ip6.arpa {
    kubeconfig $ROOT/dns.kubeconfig
    ttl 5
  }
  cache 5
}
C
  spawn control-plane coredns $LAN "$(binary coredns)" -conf "$ROOT/dns/Corefile"
  kc apply -f - >/dev/null <<Y
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: 10.96.0.10
  ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns-1, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv4
ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
endpoints: [{addresses: ["$CP"], conditions: {ready: true}}]
Y
}

support_up() { # volumes, and the forwards from the host (see support/)
  spawn control-plane support $LAN "$(binary support)" --kubeconfig "$ROOT/admin.kubeconfig" --root "$ROOT" \
    --host-netns "/proc/$$/ns/net" --api-listen "127.0.0.1:$API_PORT" --api-target "$CP:6443" --nodeport-target $CP
  await "the API server's forward on 127.0.0.1:$API_PORT" \
    "$(binary kubectl)" --kubeconfig "$KUBECONFIG_HOST" get --raw /readyz
}
