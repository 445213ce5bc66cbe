# Keeps a node's namespaces as long as standard input is open, then takes everything down, however
# the test ended. Its argument is the name of the node's cgroup.
set -eu
trap '' HUP INT TERM
cgroup=$1

# The first process of a pid namespace takes all others with it when it ends: runtimes, their shims
# and what runs in their containers. It also reaps those that lost their parents. (Debian's unshare
# complains of its own signal mask at the end, which nobody needs to read.)
unshare --net --mount --propagation slave --pid --fork --mount-proc sh -euc '
  exec 2>&3 3>&-
  mount -t tmpfs -o mode=755 node /run
  # Runtimes and plugins keep state there, too, and some of it where nothing is configured.
  mount -t tmpfs -o mode=755 node /var/lib
  mkdir -p /run/netns
  ip link set lo up
  echo ready
  while sleep 1; do :; done
' 3>&2 2>/dev/null &
echo "$!"
cat >/dev/null

kill -KILL $(cat "/proc/$!/task/$!/children")
wait
for folder in /sys/fs/cgroup/"$cgroup" /sys/fs/cgroup/*/"$cgroup"; do
  [ ! -d "$folder" ] || find "$folder" -depth -type d -exec rmdir {} +
done
