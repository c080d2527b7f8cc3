#!/bin/bash
# Makes .venv: the packages of requirements/dev.txt, and ours, editable. Does nothing, in milliseconds, when all is as
# it was. PYTHON=… chooses the interpreter (at least 3.11).
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
. scripts/debian_packages.sh

packages=(shared services/cas services/actioncache services/scheduler services/worker services/gateway cli)
venv=$PWD/.venv
stamp=$venv/.complete

# Where the environment is and whose it is: it can neither be moved nor outlive its interpreter.
whereabouts() { echo "$venv $(readlink -f "$venv/bin/python")"; }
# What the environment is made from.
ingredients() { sha256sum scripts/setup.sh requirements/dev.txt "${packages[@]/%//pyproject.toml}"; }
is_complete() {
  [ -x "$venv/bin/python" ] && [ -r "$stamp" ] && [ "$(<"$stamp")" = "$(whereabouts; ingredients)" ]
}
say() { echo "setup: $*" >&2; }
fail() { say "$*"; exit 1; }

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
makes_venvs() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }
the_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3}; do
    if new_enough "$candidate" && "$1" "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

# Debian keeps the module that makes virtual environments in a package of its own.
install_venv_module() {
  local package
  package=$("$1" -c 'import sys; print(f"python3.{sys.version_info.minor}-venv")')
  [ -e /etc/debian_version ] && [ "$(readlink -f "$(command -v "$1")")" = "$(readlink -f "/usr/bin/${package%-venv}")" ] ||
    fail "$1 has no modules venv and ensurepip: install them, or choose another interpreter: make setup PYTHON=…"
  [ "$(id -u)" = 0 ] || fail "$1 cannot make virtual environments. Run: sudo apt-get install $package"
  install_packages setup "$package" || exit 1
}

build() {
  local before
  before=$(ingredients)
  if [ -e "$stamp" ] && [ -x "$venv/bin/python" ] && [ "$(head -n 1 "$stamp")" = "$(whereabouts)" ]; then
    say "bringing .venv up to date"
    rm -f "$stamp"
  else
    # Absent, never finished, moved here, or of another interpreter.
    local python
    the_python true >/dev/null || fail "needs Python 3.11 or newer, as python3 on PATH or named: make setup PYTHON=/path/to/python3"
    the_python makes_venvs >/dev/null || install_venv_module "$(the_python true)"
    python=$(the_python makes_venvs) || fail "$(the_python true) still cannot make virtual environments"
    say "making .venv with $python"
    rm -rf "$venv"
    "$python" -m venv "$venv"
  fi
  local pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet)
  "${pip[@]}" install --require-hashes --requirement requirements/dev.txt
  # With what is there now: no network, no other build environment.
  "${pip[@]}" install --no-index --no-deps --no-build-isolation "${packages[@]/#/--editable=./}"
  printf '%s\n' "$(whereabouts)" "$before" >"$stamp.new"
  mv "$stamp.new" "$stamp"
  say "done in $SECONDS s"
}

is_complete && exit
command -v flock >/dev/null || fail "needs flock (Debian package util-linux)"
exec 9>.venv.lock
flock --nonblock 9 || { say "waiting for another set-up"; flock 9; }
# What build starts holds the lock as well: should this script be killed, the next one waits for an orphaned pip.
is_complete || build
