# What deploy/demo and tests/run share. To be sourced, with `set -euo pipefail` in force and `program` set; `work` names a directory for logs.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
jobs=$(nproc)
stages=()
stage_name=''

die() {
  echo "$program: $*" >&2
  exit 1
}

# stage NAME: ends the stage that runs and begins the next.
stage() {
  end_stage
  stage_name=$1
  stage_start=$EPOCHREALTIME
  echo "== $1"
}

end_stage() {
  [[ -n $stage_name ]] || return 0
  stages+=("$(printf '%8.1f s  %s' "$(seconds_since "$stage_start")" "$stage_name")")
  stage_name=''
}

print_stages() {
  end_stage
  echo '== how long each stage took'
  printf '%s\n' "${stages[@]}"
}

# Seconds from an $EPOCHREALTIME until now.
seconds_since() {
  awk -v from="$1" -v to="$EPOCHREALTIME" 'BEGIN { printf "%.3f", to - from }'
}

# quietly LOG COMMAND...: its output goes to LOG, and is shown if it fails.
quietly() {
  local log=$1
  shift
  "$@" >"$log" 2>&1 </dev/null || {
    tail -40 "$log" >&2
    return 1
  }
}

# build DIR [TARGET...]: progress on a terminal, else only errors.
build() {
  if [[ -t 1 ]]; then
    ninja -C "$@" -j "$jobs"
  else
    quietly "$work/build.log" ninja -C "$@" -j "$jobs"
  fi || die "the build failed; what it said is above"
}
