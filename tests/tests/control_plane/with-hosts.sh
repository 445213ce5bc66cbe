#!/bin/sh
# The causeway-proxy that lies beside its kubeconfig, with the /etc/hosts that does, too.
set -eu
folder=$(dirname "$2")
# shellcheck disable=SC2016
exec unshare --mount /bin/sh -euc '
  folder=$1
  shift
  mount --bind "$folder/hosts" /etc/hosts
  exec "$folder/causeway-proxy" "$@"
' with-hosts "$folder" "$@"
