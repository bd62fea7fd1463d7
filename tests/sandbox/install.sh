#!/bin/sh
# install.sh: the Debian packages the sandbox needs. Quick when they are there; starts no daemon, now or at the next
# boot.
set -e
packages="munge mariadb-server slurmctld slurmd slurmdbd slurm-client slurm-wlm-basic-plugins slurm-wlm-mysql-plugin
    iproute2 gcc libc6-dev"
missing=
for p in $packages; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing="$missing $p"
done
[ -n "$missing" ] || exit 0

refuse() {
    printf 'error: %s, so these packages are not installed:%s\n  try: %s\n' "$1" "$missing" "$2" >&2
    exit 4
}
[ "$(id -u)" = 0 ] || refuse "not root" "sudo $0"
command -v apt-get >/dev/null || refuse "no apt-get here" "a Debian machine or container"

if [ ! -e /usr/sbin/policy-rc.d ]; then # 101 to whoever asks whether a daemon may be started
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod 755 /usr/sbin/policy-rc.d
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086
apt-get install -y -qq --no-install-recommends $missing >/dev/null
[ -d /run/systemd/system ] || exit 0
for p in $missing; do
    case $p in
        munge | slurmctld | slurmd | slurmdbd) systemctl disable -q "$p" ;;
        mariadb-server) systemctl disable -q mariadb ;;
    esac
done
