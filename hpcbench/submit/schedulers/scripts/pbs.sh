# PBS's side of common.sh. The statuses are the last eight bits of PBS's own error numbers: 15001, unknown job, is 153.
hb_pbs() { # COMMAND...: a client of PBS has no time limit of its own: while the server hangs it would wait without end
  timeout -k 2 25 "$@" || {
    local status=$?
    ((status != 124)) || printf '%s: no answer from the server within 25 seconds\n' "$1" >&2
    return "$status"
  }
}
hb_facts() { # QUEUE: the limits of the server, and those of the queue
  hb_pbs qstat -B -f -F json >"$hb_tmp/server" || return
  hb_limits server. <"$hb_tmp/server"
  [[ -n ${1-} ]] || return 0
  hb_pbs qstat -Q -f -F json "$1" >"$hb_tmp/queue" || return 0 # where there is no such queue, qsub says so
  printf 'queue=%s\n' "$1"
  hb_limits "" <"$hb_tmp/queue"
}
hb_limits() { # PREFIX: standard input is JSON with one key a line
  awk -F '"' -v prefix="$1" '
    /[{],?$/ { section = $2 }
    $2 == "max_array_size" || $2 == "max_queued" || $2 == "max_run" || ($2 == "walltime" && section == "resources_max") {
      value = $0
      sub(/^[ \t]*"[a-z_]*":[ \t]*/, "", value)
      gsub(/^"|"?,?[ \t]*$/, "", value)
      print prefix ($2 == "walltime" ? "resources_max." : "") $2 "=" value
    }'
}
hb_send() { # GROUP TOKEN ARRAY CASE: prints the job's id
  if ! [[ $2 =~ ^[A-Za-z0-9_.+-]{1,230}$ ]]; then # what qsub takes as a name, and qselect finds
    printf '%s is no name of a job for PBS\n' "$2" >&2
    return 2
  fi
  # -f: without it a background qsub may submit the job long after this one was killed
  if [[ -n $3 ]]; then # PBS writes each subjob's own index into the path
    hb_pbs qsub -f -N "$2" -J "$3" -j oe -o "groups/$1.^array_index^.log" "groups/$1.sh"
  else
    cd -- "$4" && hb_pbs qsub -f -N "$2" -j oe -o scheduler.log job.sh
  fi | grep -Eax '[0-9]+(\[\])?(\.[A-Za-z0-9._-]+)?' | head -n 1
  return "${PIPESTATUS[0]}"
}
hb_find() { # GROUP TOKEN: the job of that name that was submitted from here, also one that has ended
  local ids id
  ids=$(hb_pbs qselect -x -N "$2" 2>"$hb_tmp/find") || { hb_words "$hb_tmp/find"; return 1; }
  # a server that keeps no history says so, with status 0, and lists nothing
  [[ ! -s $hb_tmp/find ]] || ids=$(hb_pbs qselect -N "$2" 2>"$hb_tmp/find") || { hb_words "$hb_tmp/find"; return 1; }
  for id in $(hb_others "$1" <<<"$ids"); do
    hb_shown -x -f -w "$id" >"$hb_tmp/job" 2>"$hb_tmp/find" || { hb_words "$hb_tmp/find"; return 1; }
    if hb_is_ours <"$hb_tmp/job"; then
      printf '%s\n' "$id"
      return
    fi
  done
  hb_started "$1" | sed 's/\[[0-9]*\]/[]/'
}
hb_is_ours() { # standard input: what qstat -f says of a job
  here=$PWD real=$(pwd -P) awk '
    function below(path, folder) { return path == folder || index(path, folder "/") == 1 || index(path, folder ",") == 1 }
    function ours(path) { return below(path, ENVIRON["here"]) || below(path, ENVIRON["real"]) }
    /^ *Output_Path = / { sub(/^ *Output_Path = [^\/]*/, ""); found = found || ours($0) }
    /^ *Variable_List = / { at = index($0, "PBS_O_WORKDIR="); found = found || at && ours(substr($0, at + 14)) }
    END { exit !found }'
}
hb_words() { # FILE: on one line
  tr -s '\n\t' '  ' <"$1" | cut -c1-500
}
hb_refusal() { # STATUS WORDS: rejected, full (try later), or unsure whether a job was made
  case $2 in
    *"would exceed"* | *"aximum number of jobs"*) echo full && return ;;
    *onnection* | *"cannot connect"* | *"no answer"* | *"timed out"* | "") echo unsure && return ;;
  esac
  case $1 in
    38) echo full ;;
    # no status to go by, ended by a signal, or an error between client and server
    0 | 124 | 129 | 130 | 137 | 143 | 162 | 163 | 183 | 185 | 186 | 255) echo unsure ;;
    *) echo rejected ;;
  esac
}
hb_query() { # JOB...: all jobs that are not in arrays at once; an array with its subjobs in one answer of its own
  local id at singles=() arrays=()
  while IFS= read -r id; do
    if [[ $id == *"[]"* ]]; then arrays+=("$id"); else singles+=("$id"); fi
  done < <(printf '%s\n' "$@" | sed 's/\[[0-9]*\]/[]/' | LC_ALL=C sort -u)
  for ((at = 0; at < ${#singles[@]}; at += 500)); do
    # without -E the JSON of several ids holds the first one only
    hb_shown -x -E -f -F json "${singles[@]:at:500}" || return
  done
  for id in "${arrays[@]}"; do
    hb_shown -x -t -f -F json "$id" || return
  done
}
hb_shown() { # -x ARGUMENT...: qstat; not to know a job is an answer too
  local status
  hb_pbs qstat "$@" >"$hb_tmp/shown" 2>"$hb_tmp/said"
  status=$?
  if grep -qa 'not configured to maintain job history' "$hb_tmp/said"; then
    shift # then -x is refused for every job, one that runs as well
    hb_pbs qstat "$@" >"$hb_tmp/shown" 2>"$hb_tmp/said"
    status=$?
  fi
  cat "$hb_tmp/shown"
  # the status is that of the last id that failed: 153 unknown, 35 ended
  case $status in 0 | 35 | 153) return 0 ;; esac
  ! grep -qa -e '"Jobs"' -e '^Job Id:' "$hb_tmp/shown" || return 0
  cat "$hb_tmp/said" >&2
  return "$status"
}
hb_cancel() { # JOB...: one that has ended, or is not known any more, is as it should be
  local jobs=("$@") at status failed=0
  for ((at = 0; at < ${#jobs[@]}; at += 500)); do
    hb_pbs qdel "${jobs[@]:at:500}" >"$hb_tmp/said" 2>&1
    status=$?
    ((status != 0)) || continue
    # the status tells of the last failure only; each has its line
    if grep -av -e 'Unknown Job Id' -e 'Job has finished' -e 'Invalid request' "$hb_tmp/said" >&2; then failed=$status; fi
  done
  return "$failed"
}
