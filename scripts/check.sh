#!/bin/bash
# All that can be said about the sources without running them. Says everything that is wrong, not only the first thing.
set -uo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

failed=()
check() {
  echo "== $*"
  "$@" || failed+=("$*")
}
PATH=$PWD/.venv/bin:$PATH
check ruff format --check
check ruff check
check mypy
check python shared/protos/generate.py --check
check python -m scripts.locks check

[ ${#failed[@]} = 0 ] && exit
printf '\nfailed:\n' >&2
printf '  %s\n' "${failed[@]}" >&2
exit 1
