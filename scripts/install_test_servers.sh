#!/bin/bash
# Installs the servers that tests start for themselves and that are no Python packages: Redis and PostgreSQL. Does
# nothing, in milliseconds, when they are there; without root, or elsewhere than on Debian, says what to run, and the
# tests that need them are skipped, which CI does not accept.
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/debian_packages.sh"

say() { echo "test servers: $*" >&2; }
# Debian keeps PostgreSQL's servers off the PATH.
has_postgresql() { command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; }

packages=() names=()
if ! command -v redis-server >/dev/null || ! command -v redis-cli >/dev/null; then
  packages+=(redis-server) names+=('Redis (6 or newer)')
fi
if ! has_postgresql; then
  packages+=(postgresql) names+=('PostgreSQL (14 or newer)')
fi
[ "${#packages[@]}" -gt 0 ] || exit 0
missing=$(printf '%s, ' "${names[@]}")
if [ ! -e /etc/debian_version ]; then
  say "not here: ${missing%, }. The tests that need it will be skipped. Install it"
  exit
fi
if [ "$(id -u)" != 0 ]; then
  say "not here: ${missing%, }. The tests that need it will be skipped. Run: sudo apt-get install ${packages[*]}"
  exit
fi
install_packages "test servers" "${packages[@]}"
