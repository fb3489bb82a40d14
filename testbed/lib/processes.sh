# Processes of the test cluster. What this script starts is in a cgroup below cc-testbed (control-plane, node<N>), and
# what containerd starts is in one of the container's id, so that exactly they can be found and killed, however
# they were started and whoever their parent is by then.

if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
  tracking=/sys/fs/cgroup/cc-testbed # version 2: one hierarchy
else
  tracking=/sys/fs/cgroup/pids/cc-testbed # version 1: one of the controllers' hierarchies does for finding processes
fi

# The cgroup directories of a group in every hierarchy, children first, with those of its containers.
tracked_cgroups() { # group ("" for all)
  local container parents=()
  for container in "$ROOT"/${1:-node*}/run/io.containerd.runtime.v2.task/k8s.io/*; do
    container=${container##*/}
    [ "$container" = '*' ] || parents+=("/sys/fs/cgroup/k8s.io/$container" /sys/fs/cgroup/*/"k8s.io/$container")
  done
  find "/sys/fs/cgroup/cc-testbed/$1" /sys/fs/cgroup/*/"cc-testbed/$1" "${parents[@]}" -depth -type d 2>/dev/null || true
}

spawn() { # group name namespace command...: in the background, with its output in the cluster's log directory
  local group=$1 name=$2 ns=$3 open
  shift 3
  mkdir -p "$tracking/$group"
  (
    echo "$BASHPID" >"$tracking/$group/cgroup.procs"
    # What the caller has open, such as a lock, it would hold for as long as it runs.
    for open in /proc/self/fd/*; do
      open=${open##*/}
      [ "$open" -le 2 ] || eval "exec $open>&-"
    done
    exec setsid nsenter --net="/run/netns/$ns" "$@"
  ) >>"$ROOT/log/$name.log" 2>&1 </dev/null &
}

# Containers are all below one cgroup. On real nodes that of the pods weighs as much as all cores together against what
# else runs there. Without this, each kubelet and runtime here would go before all pods when there is more to do than cores.
weigh_pods() { # nodes
  local weight=$(($1 * $(nproc)))
  [ "$weight" -le 100 ] || weight=100 # as much as the kernel takes
  if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
    echo +cpu >/sys/fs/cgroup/cgroup.subtree_control
    mkdir -p /sys/fs/cgroup/k8s.io
    echo $((weight * 100)) >/sys/fs/cgroup/k8s.io/cpu.weight
  else
    mkdir -p /sys/fs/cgroup/cpu/k8s.io
    echo $((weight * 1024)) >/sys/fs/cgroup/cpu/k8s.io/cpu.shares
  fi
}

kill_group() { # group: SIGKILL to all of its processes until none is left and the cgroups are gone
  local cgroups pids deadline=$((SECONDS + 20))
  cgroups=$(tracked_cgroups "$1")
  while [ "$SECONDS" -lt "$deadline" ]; do
    # Some may have ended, and their cgroups be gone, since they were found.
    pids=$(echo "$cgroups" | sed 's,$,/cgroup.procs,' | xargs cat 2>/dev/null | sort -u | tr '\n' ' ' || true)
    # shellcheck disable=SC2086
    [ -z "${pids// /}" ] || kill -KILL $pids 2>/dev/null || true
    # Refused while anything is in them, also the dead whom nobody has awaited yet.
    echo "$cgroups" | xargs -r rmdir 2>/dev/null || true
    cgroups=$(echo "$cgroups" | xargs -r ls -d 2>/dev/null | tac || true)
    [ -n "$cgroups" ] || return 0
    sleep 0.05
  done
  echo "these processes do not end: $pids ($cgroups)" >&2
  return 1
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
