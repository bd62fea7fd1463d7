#!/bin/bash
# users.sh [--remove]: two plain users in two accounts, alice in proj and bob in phys. Called by up.sh, and with
# --remove by down.sh --purge.
. "$(dirname "$0")/lab.env"
made_by="eco2ai-hpc sandbox $NS" # as full name: only whoever made a user removes it

if [ "${1:-}" = --remove ]; then
    for user in alice bob; do
        [ "$(getent passwd $user | cut -d: -f5)" != "$made_by" ] || userdel $user
    done
    exit 0
fi
make_user() { # USER UID
    id "$1" >/dev/null 2>&1 || useradd -M -d "$LAB/home/$1" -c "$made_by" -u "$2" -U -s /bin/bash "$1" ||
        die "cannot add user $1 with uid $2"
    install -d -m 700 -o "$1" -g "$(id -gn "$1")" "$LAB/home/$1"
}
make_user alice 5001
make_user bob 5002
associations=$("$HERE/sh.sh" sacctmgr -i -Q -n -P <<END
add account proj Description=proj Organization=lab
add account phys Description=phys Organization=lab
add user alice Account=proj
add user bob Account=phys
show association format=account,user
END
)
case $associations in *"phys|bob"*"proj|alice"*) ;; *) die "sacctmgr made other users: $associations" ;; esac
