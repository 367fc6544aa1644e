# Process 1 of the node's namespaces: lays out what its processes see, then waits until its standard input ends. When it ends, the
# kernel ends every process beside it and takes back all that is mounted, routed and filtered in here.
set -eu
folder=$1 name=$2
mount --make-rprivate /
hostname "$name"

hierarchies=()
for hierarchy in /sys/fs/cgroup/*/; do
  hierarchy=${hierarchy%/}
  if [ -e "$hierarchy/cgroup.procs" ] && [ ! -L "$hierarchy" ] && [ "${hierarchy##*/}" != unified ]; then
    hierarchies+=("${hierarchy##*/}")
  fi
done
unified=
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then unified=yes; fi

# Of this network namespace, and of this cgroup namespace.
mount -t sysfs sysfs /sys
if [ -n "$unified" ]; then
  mount -t cgroup2 cgroup2 /sys/fs/cgroup
  # No process may be where children have controllers.
  mkdir -p /sys/fs/cgroup/init
  for process in $(cat /sys/fs/cgroup/cgroup.procs); do echo "$process" >/sys/fs/cgroup/init/cgroup.procs || :; done
  for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
    echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control || :
  done
else
  mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup
  for hierarchy in "${hierarchies[@]}"; do
    mkdir "/sys/fs/cgroup/$hierarchy"
    options=$hierarchy
    if [ "$hierarchy" = systemd ]; then options=none,name=systemd; fi
    mount -t cgroup -o "$options" cgroup "/sys/fs/cgroup/$hierarchy"
  done
fi
mount -t bpf bpf /sys/fs/bpf || :

mount -t tmpfs -o mode=755 run /run
mkdir /run/lock /run/sysctl
# Paths that no setting changes lie there; the machine's own files stay in sight.
for place in lib log; do
  mkdir -p "$folder/var/$place" "$folder/var/$place.work"
  mount -t overlay -o "lowerdir=/var/$place,upperdir=$folder/var/$place,workdir=$folder/var/$place.work" var "/var/$place"
done

# kubelet and the network plugins set these, and they are the whole machine's: in here they are files.
for setting in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys \
  kernel/keys/root_maxbytes kernel/unprivileged_bpf_disabled kernel/timer_migration; do
  if [ -e "/proc/sys/$setting" ]; then
    cat "/proc/sys/$setting" >"/run/sysctl/${setting//\//.}"
    mount --bind "/run/sysctl/${setting//\//.}" "/proc/sys/$setting"
  fi
done

# These belong to the network namespace.
echo 1 >/proc/sys/net/ipv4/ip_forward
for family in all default; do
  echo 0 >"/proc/sys/net/ipv4/conf/$family/rp_filter"
  if [ -e "/proc/sys/net/ipv6/conf/$family" ]; then echo 1 >"/proc/sys/net/ipv6/conf/$family/disable_ipv6"; fi
done
# What kubelet mounts must reach containers.
mount --make-rshared /
: >"$folder/ready"
read -r _ || :
