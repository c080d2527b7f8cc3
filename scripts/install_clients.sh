#!/bin/bash
# Installs the build tools that tests/clients drive and that Debian 12 has: Bazel 4.2.3, and the compiler that its C++
# rules call. Does nothing, in milliseconds, when they are there; without root, or elsewhere, says what to run, and the
# tests that need them are skipped.
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/debian_packages.sh"

packages=(bazel-bootstrap g++)
say() { echo "clients: $*" >&2; }

command -v bazel-4 >/dev/null && command -v g++ >/dev/null && exit
if ! grep -qs '^VERSION_ID="12"' /etc/os-release; then
  say "no Bazel here: the tests that need it will be skipped"
  exit
fi
if [ "$(id -u)" != 0 ]; then
  say "no Bazel here: the tests that need it will be skipped. Run: sudo apt-get install ${packages[*]}"
  exit
fi
install_packages "clients" "${packages[@]}"
