# Images on the nodes. No node can pull: what a pod uses is copied here from the local Docker engine.

load() { # image...: to every node that is on and does not have it in this version yet
  is_up || { echo "The test cluster is down; start it with: $0 up" >&2; return 1; }
  [ $# -gt 0 ] || { echo "Which images?" >&2; return 2; }
  local image n failed=0 loads=()
  for image in "$@"; do
    docker image inspect --format '{{.Id}}' "$image" >/dev/null || return 1
  done
  for n in $(seq "$(cat "$ROOT/nodes")"); do
    [ -S "$ROOT/node$n/containerd.sock" ] || { echo "node $n is off: nothing loaded there" >&2; continue; }
    load_node "$n" "$@" &
    loads+=($!)
  done
  for n in "${loads[@]}"; do wait "$n" || failed=1; done
  return "$failed"
}

load_node() { # node image...
  local n=$1 image changed=()
  shift
  for image in "$@"; do
    [ "$(cat "$(mark_of "$n" "$image")" 2>/dev/null)" = "$(image_id "$image")" ] || changed+=("$image")
  done
  [ ${#changed[@]} -gt 0 ] || return 0
  docker save "${changed[@]}" | node_ctr "$n" images import - >/dev/null
  for image in "${changed[@]}"; do
    image_id "$image" >"$(mark_of "$n" "$image")"
    echo "node$n: $image"
  done
}

image_id() { docker image inspect --format '{{.Id}}' "$1"; }
mark_of() { echo "$ROOT/node$1/loaded/$(echo "$2" | tr '/:' '__')"; }

# What holds a pod's namespaces: a static program of two lines, built once. Prints the image's tar file.
pause_image() {
  local tar work
  tar=${XDG_CACHE_HOME:-$HOME/.cache}/cachecluster/pause-1/pause.tar
  if [ ! -f "$tar" ]; then
    work=$(mktemp -d)
    printf '#include <unistd.h>\nint main(void) { for (;;) pause(); }\n' >"$work/pause.c"
    cc -static -O2 -o "$work/pause" "$work/pause.c"
    printf 'FROM scratch\nCOPY pause /pause\nUSER 65535\nENTRYPOINT ["/pause"]\n' >"$work/Dockerfile"
    docker build -q -t localhost/pause:1 "$work" >"$work/log" 2>&1 || { cat "$work/log" >&2; return 1; }
    mkdir -p "$(dirname "$tar")"
    docker save localhost/pause:1 -o "$tar.new" && mv "$tar.new" "$tar"
    docker image rm localhost/pause:1 >/dev/null
    rm -rf "$work"
  fi
  echo "$tar"
}
