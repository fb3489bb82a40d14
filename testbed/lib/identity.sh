# Certificates, bearer tokens and kubeconfigs. All are made anew on each start.

make_identities() { # nodes
  local n
  mkdir -p "$ROOT/pki"
  certificates
  : >"$ROOT/pki/tokens.csv"
  identity admin admin system:masters
  identity kcm system:kube-controller-manager
  identity scheduler system:kube-scheduler
  identity proxy system:kube-proxy
  identity dns coredns system:masters
  for n in $(seq "$1"); do identity "kubelet$n" "system:node:node$n" system:nodes; done
}

certificates() (
  cd "$ROOT/pki"
  exec 2>"$ROOT/log/openssl.log"
  local ec=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)
  openssl req -x509 "${ec[@]}" -days 365 -subj /CN=cc-ca -keyout ca.key -out ca.crt
  openssl req "${ec[@]}" -subj /CN=kube-apiserver -keyout api.key -out api.csr
  local names=DNS:localhost,IP:127.0.0.1,IP:10.96.0.1,IP:$CP,DNS:kubernetes,DNS:kubernetes.default
  echo "subjectAltName=$names,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local" >api.ext
  openssl x509 -req -in api.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -out api.crt -extfile api.ext
  openssl genrsa -out sa.key 2048
  openssl rsa -in sa.key -pubout -out sa.pub
)

identity() { # file user [group]: a bearer token, and a kubeconfig that carries it
  local token
  token=$(openssl rand -hex 16)
  echo "$token,$2,$1${3:+,$3}" >>"$ROOT/pki/tokens.csv"
  kubeconfig "https://$CP:6443" "$token" >"$ROOT/$1.kubeconfig"
  if [ "$1" = admin ]; then
    (umask 077 && kubeconfig "https://127.0.0.1:$API_PORT" "$token" >"$KUBECONFIG_HOST")
  fi
}

kubeconfig() { # server token
  cat <<K
apiVersion: v1
kind: Config
clusters:
- name: cachecluster-testbed
  cluster: {server: "$1", certificate-authority-data: $(base64 -w0 "$ROOT/pki/ca.crt")}
users:
- name: user
  user: {token: $2}
contexts:
- name: cachecluster-testbed
  context: {cluster: cachecluster-testbed, user: user}
current-context: cachecluster-testbed
K
}
