# Processes of the test cluster. Every one is started in a cgroup below cc-testbed, and so are the pods, so that
# exactly they can be found and killed, however they were started and whoever their parent is by then.
#
# Groups: control-plane, node<N>/host (containerd, its shims, kubelet, kube-proxy), node<N>/pods.

if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
  tracking=/sys/fs/cgroup/cc-testbed # version 2: one hierarchy
else
  tracking=/sys/fs/cgroup/pids/cc-testbed # version 1: one of the controllers' hierarchies does for finding processes
fi

# The cgroup directories of a group in every hierarchy, children first.
tracked_cgroups() { # group ("" for all)
  find /sys/fs/cgroup/cc-testbed/$1 /sys/fs/cgroup/*/cc-testbed/$1 -depth -type d 2>/dev/null || true
}

spawn() { # group name namespace command...: in the background, with its output in the cluster's log directory
  local group=$1 name=$2 ns=$3
  shift 3
  mkdir -p "$tracking/$group"
  (
    echo "$BASHPID" >"$tracking/$group/cgroup.procs"
    exec setsid nsenter --net="/run/netns/$ns" "$@"
  ) >>"$ROOT/log/$name.log" 2>&1 </dev/null &
}

kill_group() { # group: SIGKILL to all of its processes, until none is left
  local pids deadline=$((SECONDS + 20))
  while [ "$SECONDS" -lt "$deadline" ]; do
    pids=$(find "$tracking/$1" -name cgroup.procs -exec cat {} + 2>/dev/null | tr '\n' ' ' || true)
    [ -n "${pids// /}" ] || return 0
    # shellcheck disable=SC2086
    kill -KILL $pids 2>/dev/null || true
    sleep 0.05
  done
  echo "these processes do not end: $pids" >&2
  return 1
}

remove_cgroups() { # group
  local directory
  tracked_cgroups "$1" | while read -r directory; do rmdir "$directory" 2>/dev/null || true; done
}

unmount_below() { # directory
  awk -v below="$1/" 'index($2, below) == 1 { print $2 }' /proc/mounts | sort -r | xargs -r umount -l
}

await() { # what command...: polls until the command succeeds, a minute at most
  local what=$1 deadline=$((SECONDS + 60))
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || { echo "gave up waiting for $what; see $ROOT/log" >&2; return 1; }
    sleep 0.2
  done
}
