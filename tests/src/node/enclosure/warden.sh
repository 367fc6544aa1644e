# Holds a node's namespaces, and clears away after it: FOLDER NAME INIT CGROUP... Its standard input is a pipe that its owner holds;
# when that ends, for whatever reason, so does the node.
trap "" HUP INT TERM
folder=$1 name=$2 init=$3
shift 3
exec 3<&0
(
  for group; do echo 0 >"$group/cgroup.procs" || exit 1; done
  exec unshare --fork --kill-child --pid --mount --mount-proc --net --uts --ipc --cgroup --propagation private \
    bash -c "$init" node-init "$folder" "$name" <&3 >"$folder/init.log" 2>&1 3<&-
) &
box=$!
echo "$box" >"$folder/box.pid"
read -r _
# What `unshare` waits for is the first process, and with it all that is inside.
# shellcheck disable=SC2046
kill -s KILL $(cat "/proc/$box/task/$box/children" 2>/dev/null) 2>/dev/null || kill -s KILL "$box" 2>/dev/null
wait "$box"
for group; do
  n=0
  while [ -d "$group" ] && [ $n -lt 50 ]; do
    find "$group" -depth -type d -exec rmdir {} + 2>/dev/null
    [ ! -d "$group" ] || sleep 0.02
    n=$((n + 1))
  done
done
rm -rf -- "$folder"
