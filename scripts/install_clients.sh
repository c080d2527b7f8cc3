#!/bin/bash
# Installs the build tools that tests/clients drive and that Debian 12 has: Bazel 4.2.3, and the compiler that its C++
# rules call. Does nothing, in milliseconds, when they are there; without root, or elsewhere, says what to run, and the
# tests that need them are skipped.
set -euo pipefail

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
say "installing ${packages[*]}"
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for tries in {60..0}; do
  # `update` takes a lock for which no option makes it wait; a source of the machine's that fails need not matter.
  apt-get update -qq >"$log" 2>&1 || true
  if apt-get -o DPkg::Lock::Timeout=600 install -y -qq --no-install-recommends "${packages[@]}" >>"$log" 2>&1; then
    exit
  fi
  grep -q 'Could not get lock' "$log" && [ "$tries" -gt 0 ] || break
  sleep 3
done
cat "$log" >&2
say "could not install them. Run: apt-get update && apt-get install ${packages[*]}"
exit 1
