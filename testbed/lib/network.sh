# Networks: one bridge (172.31.0.0/24) in the control plane's namespace, to which each node is wired;
# pods of node N are in 10.244.N.0/24, routed by the nodes; Services are in 10.96.0.0/16.

LAN=cc-lan
CP=172.31.0.1

node_ip() { echo "172.31.0.$((10 + $1))"; }
node_ns() { echo "cc-node$1"; }
pods_of() { echo "10.244.$1.0/24"; }

in_ns() { # namespace command...: unlike `ip netns exec`, it leaves /sys (and with it the cgroups) in view
  local ns=$1
  shift
  nsenter --net="/run/netns/$ns" "$@"
}

make_network() { # nodes
  local n
  ip netns add $LAN
  in_ns $LAN ip link set lo up
  in_ns $LAN ip link add br0 type bridge
  in_ns $LAN ip addr add $CP/24 dev br0
  in_ns $LAN ip link set br0 up
  in_ns $LAN sysctl -qw net.ipv4.ip_forward=1
  bridge_only
  for n in $(seq "$1"); do
    wire_node "$n"
    in_ns $LAN ip route add "$(pods_of "$n")" via "$(node_ip "$n")"
  done
  for n in $(seq "$1"); do routes "$n"; done
}

# With br_netfilter loaded, IP rules would also see what the bridge carries from node to node, and a node that is cut off
# from the control plane would be cut off from the other nodes, too.
bridge_only() { in_ns $LAN sysctl -qw net.bridge.bridge-nf-call-iptables=0 2>/dev/null || true; }

wire_node() { # node
  local n=$1 ns
  ns=$(node_ns "$n")
  ip netns add "$ns"
  ip link add "cc-v$n" netns $LAN type veth peer name eth0 netns "$ns"
  in_ns $LAN ip link set "cc-v$n" master br0 up
  in_ns "$ns" ip addr add "$(node_ip "$n")/24" dev eth0
  in_ns "$ns" ip link set eth0 up
  in_ns "$ns" ip link set lo up
  in_ns "$ns" sysctl -qw net.ipv4.ip_forward=1
}

routes() { # node: to the other nodes' pods; the kernel forgets them whenever the link goes down
  local m
  in_ns "$(node_ns "$1")" ip route replace default via $CP
  for m in $(seq "$(cat "$ROOT/nodes")"); do
    [ "$m" = "$1" ] || in_ns "$(node_ns "$1")" ip route replace "$(pods_of "$m")" via "$(node_ip "$m")"
  done
}

# What belongs to one end of a partition: its own address and, of a node, its pods.
addresses_of() { if [ "$1" = cp ]; then echo $CP; else echo "$(node_ip "$1"), $(pods_of "$1")"; fi; }
namespace_of() { if [ "$1" = cp ]; then echo $LAN; else node_ns "$1"; fi; }

partition() { # A B: both drop what comes from the other and what would go there, before connection tracking
  local here there
  # Whoever loads the module meanwhile switches it on again.
  bridge_only
  for here in "$1" "$2"; do
    if [ "$here" = "$1" ]; then there=$2; else there=$1; fi
    # The control plane's namespace also carries the nodes' traffic to each other as a bridge, which these IP hooks do not see (bridge_only).
    in_ns "$(namespace_of "$here")" nft -f - <<N
table ip cc_partition {
  set cut { type ipv4_addr; flags interval; auto-merge; }
  chain from { type filter hook prerouting priority raw; ip saddr @cut drop; }
  chain to { type filter hook postrouting priority raw; ip daddr @cut drop; }
}
add element ip cc_partition cut { $(addresses_of "$there") }
N
  done
}

heal() {
  local ns
  for ns in $(our_namespaces); do in_ns "$ns" nft delete table ip cc_partition 2>/dev/null || true; done
}

our_namespaces() { ip netns list | awk '$1 == "cc-lan" || $1 ~ /^cc-node[0-9]+$/ { print $1 }'; }

remove_network() {
  local ns
  for ns in $(our_namespaces); do ip netns del "$ns"; done
}
