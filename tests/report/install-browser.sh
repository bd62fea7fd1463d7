#!/bin/sh
# A browser for the tests of the pages, from Debian's packages; nothing to do where there is one.
command -v chromium >/dev/null && exit 0
[ "$(id -u)" = 0 ] || { echo "error: chromium is missing, and installing it needs root" >&2; exit 4; }
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null
