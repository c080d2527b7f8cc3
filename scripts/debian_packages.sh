# How the scripts beside this one install packages of Debian's; to be sourced.

# install_packages NAME PACKAGE...: as root. NAME says in messages whose they are.
install_packages() {
  local name=$1 log tries
  shift
  echo "$name: installing $*" >&2
  export DEBIAN_FRONTEND=noninteractive LC_ALL=C
  log=$(mktemp)
  for tries in {60..0}; do
    # `update` takes a lock for which no option makes it wait; a source of the machine's that fails need not matter.
    apt-get update -qq >"$log" 2>&1 || true
    if apt-get -o DPkg::Lock::Timeout=600 install -y -qq --no-install-recommends "$@" >>"$log" 2>&1; then
      rm -f "$log"
      return
    fi
    grep -q 'Could not get lock' "$log" && [ "$tries" -gt 0 ] || break
    sleep 3
  done
  cat "$log" >&2
  rm -f "$log"
  echo "$name: could not install them. Run: apt-get update && apt-get install $*" >&2
  return 1
}
