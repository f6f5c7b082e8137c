# common.sh's side of a machine without a scheduler: a feeder (feed.sh) starts the cases there, one after another.
# A case's job is named after the case.
hb_facts() {
  :
}
hb_send() { # GROUP TOKEN ARRAY CASE: prints who feeds
  local before
  before=$(cat feeder 2>/dev/null)
  # away from this connection, in a session of its own: it outlives whoever started it
  setsid bash groups/feed.sh >>feeder.log 2>&1 </dev/null &
  local pid=$! tries
  for ((tries = 0; tries < 100; tries++)); do # another feeder may be at work: it will come to these cases too
    if [[ $(cat feeder 2>/dev/null) != "$before" ]] || ! kill -0 "$pid" 2>/dev/null; then break; fi
    sleep 0.05
  done
  cat feeder
}
hb_find() { # GROUP TOKEN: nothing to find: a feeder that starts twice starts each case once
  :
}
hb_refusal() { # STATUS WORDS
  echo rejected
}
hb_query() { # CASE...: case|state|why
  local case host pid birth boot feeder=
  read -r host pid birth 2>/dev/null <feeder && hb_works "$host" "$pid" "$birth" && feeder=yes
  for case; do
    if [[ -e $case/exit.json ]]; then
      printf '%s|completed|\n' "$case"
    elif [[ -s $case/started.json ]]; then
      hb_field host "$case"
      host=$REPLY
      hb_field pid "$case"
      pid=$REPLY
      hb_field birth "$case"
      birth=$REPLY
      hb_field boot "$case"
      boot=$REPLY
      if [[ $host != "$(hb_here)" ]]; then
        printf '%s|unknown|runs on %s, which is not the host that answers\n' "$case" "$host"
      elif [[ $boot == "$(cat /proc/sys/kernel/random/boot_id 2>/dev/null)" ]] && hb_alive "$pid" "$birth"; then
        printf '%s|running|\n' "$case"
      elif [[ -e $case/exit.json ]]; then # written while this looked
        printf '%s|completed|\n' "$case"
      else
        printf '%s|lost|its process is gone and left no exit record\n' "$case"
      fi
    elif [[ -e $case/cancelled ]]; then
      printf '%s|cancelled|cancelled before it started\n' "$case"
    elif [[ -n $feeder ]]; then
      printf '%s|queued|\n' "$case"
    else
      printf '%s|waiting|\n' "$case"
    fi
  done
}
hb_here() { # this host, as job scripts write it
  local host
  host=$(uname -n)
  printf '%s' "${host//[^A-Za-z0-9._-]/_}"
}
hb_field() { # NAME CASE: of its started.json
  REPLY=$(sed -n "s/.*\"$1\": \"\\{0,1\\}\\([^\",}]*\\).*/\\1/p" "$2/started.json")
}
hb_alive() { # PID BIRTH
  REPLY=
  hb_birth "$1"
  [[ -n $REPLY && ($REPLY == "$2" || $2 == 0) ]]
}
hb_cancel() { # CASE...: what has not started never will; what runs is asked to end, then made to
  local case pid birth host left=() tries
  for case; do
    [[ -e $case/exit.json ]] || touch -- "$case/cancelled"
  done
  sleep 0.3 # a feeder that looked just before has started it by now
  for case; do
    [[ -s $case/started.json && ! -e $case/exit.json ]] || continue
    hb_field host "$case"
    host=$REPLY
    hb_field pid "$case"
    pid=$REPLY
    hb_field birth "$case"
    birth=$REPLY
    if [[ $host != "$(hb_here)" ]]; then
      printf '%s runs on %s, which is not the host that answers\n' "$case" "$host" >&2
      return 1
    fi
    hb_before_end "$case"
    if hb_alive "$pid" "$birth"; then
      kill -TERM "$pid"
      left+=("$pid $birth")
    fi
  done
  for ((tries = 0; tries < 150 && ${#left[@]}; tries++)); do
    local still=() each
    for each in "${left[@]}"; do
      # shellcheck disable=SC2086
      if hb_alive $each; then still+=("$each"); fi
    done
    left=("${still[@]}")
    ((${#left[@]} == 0)) || sleep 0.1
  done
  for each in "${left[@]}"; do
    pkill -KILL -s "${each% *}"
  done
  return 0
}
hb_before_end() { # CASE: before its process is told to end
  :
}
