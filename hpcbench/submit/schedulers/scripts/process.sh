# common.sh's side of a machine without a scheduler: a feeder (feed.sh) starts the cases there, one after another.
# A case's job is named after the case.
hb_facts() {
  :
}
hb_send() { # GROUP TOKEN ARRAY CASE: prints who feeds
  local before case pid tries
  while IFS= read -r case; do # free what hb_again holds
    hb_read "$case"
    [[ $hb_token != again ]] || rm -f -- "$case/started.json"
  done <"groups/$1.cases"
  before=$(cat feeder 2>/dev/null)
  # away from this connection, in a session of its own: it outlives whoever started it
  setsid bash groups/feed.sh >>feeder.log 2>&1 </dev/null &
  pid=$!
  for ((tries = 0; tries < 200; tries++)); do # another feeder may be at work: it will come to these cases too
    [[ $(cat feeder 2>/dev/null) == "$before" ]] || break
    if ! kill -0 "$pid" 2>/dev/null; then
      wait "$pid" && break
      tail -n 1 feeder.log >&2
      return 1
    fi
    sleep 0.05
  done
  cat feeder
}
hb_find() { # GROUP TOKEN
  # A group that is only looked for may have been fed, so its cases are asked for, and ended, by name. Where it is to be
  # sent, sending it again does no harm: a second feeder starts nothing that has started.
  [[ ${mode-} != look ]] || echo fed
}
hb_refusal() { # STATUS WORDS
  echo rejected
}
hb_query() { # CASE...: case|state|why
  local case feeder=
  hb_is_fed && feeder=yes
  for case; do
    if [[ -e $case/exit.json ]]; then
      printf '%s|completed|\n' "$case"
      continue
    fi
    hb_read "$case"
    if [[ $hb_token == cancelled && $hb_pid == 0 ]]; then
      printf '%s|cancelled|cancelled before it started\n' "$case"
    elif [[ -n $hb_pid && $hb_pid != 0 ]]; then
      if hb_alive; then
        printf '%s|running|\n' "$case"
      elif [[ $hb_host != "$(hb_here)" ]]; then
        printf '%s|unknown|runs on %s, which is not the host that answers\n' "$case" "$hb_host"
      elif [[ -e $case/exit.json ]]; then # written while this looked
        printf '%s|completed|\n' "$case"
      elif [[ $hb_boot != "$(hb_booted)" ]]; then
        printf '%s|lost|%s was restarted while it ran, and it left no exit record\n' "$case" "$hb_host"
      else
        printf '%s|lost|its process is gone and left no exit record\n' "$case"
      fi
    elif [[ -n $(find "$case/started.json" ! -newermt '10 seconds ago' -empty 2>/dev/null) ]]; then
      printf '%s|lost|it started, but not even its process number was written\n' "$case"
    elif [[ -e $case/refused ]]; then
      printf '%s|failed|its job script could not start\n' "$case"
    elif [[ -n $feeder ]]; then
      printf '%s|queued|\n' "$case"
    else
      printf '%s|waiting|\n' "$case"
    fi
  done
}
hb_is_fed() { # whether a feeder works on this run
  local host pid birth boot
  read -r host pid birth boot 2>/dev/null <feeder || return
  if [[ $host == "$(uname -n)" ]]; then
    [[ $boot == "$(hb_booted)" ]] && hb_runs "$pid" "$birth"
  else # hosts that share this folder may share its locks; where they do not, this host feeds what is left
    flock -n -s lock true 2>/dev/null
    (($? == 1))
  fi
}
hb_cancel() { # CASE...: what has not started never will; what runs is asked to end, then made to
  local case tries job jobs=() left=() still elsewhere=()
  for case; do
    # only one can create this file: a feeder that has just chosen this case finds that it has started
    (set -o noclobber && printf '{"token": "cancelled", "pid": 0}\n' >"$case/started.json") 2>/dev/null && continue
    for ((tries = 0; tries < 20; tries++)); do [[ -s $case/started.json ]] && break; sleep 0.05; done
    hb_read "$case"
    [[ -n $hb_pid && $hb_pid != 0 && ! -e $case/exit.json ]] || continue
    if [[ $hb_host != "$(hb_here)" ]]; then
      elsewhere+=("$case runs on $hb_host")
      continue
    fi
    left+=("$case")
    while read -r job; do jobs+=("$job"); done < <(hb_jobs "$case")
  done
  for case in "${left[@]}"; do # first: what ends it is then known to be this
    hb_read "$case"
    if hb_alive; then kill -TERM "$hb_pid"; fi
  done
  ((${#jobs[@]} == 0)) || hb_end_jobs "${jobs[@]}"
  for ((tries = 0; tries < 150; tries++)); do
    still=
    for case in "${left[@]}"; do
      hb_read "$case"
      if hb_alive; then still=yes; fi
    done
    [[ -n $still ]] || break
    sleep 0.1
  done
  for case in "${left[@]}"; do
    hb_read "$case"
    if hb_is_here; then hb_kill_session "$hb_pid" "$hb_birth"; fi
  done
  if ((${#elsewhere[@]})); then
    printf '%s, which is not the host that answers\n' "${elsewhere[@]}" >&2
    return 1
  fi
}
hb_again() { # FOLDER: put aside what earlier attempts of the cases on standard input left
  local case
  hb_enter "$1"
  while IFS= read -r case; do
    hb_read "$case"
    # begun before, by a command that was cut off: it waits, or it was sent and runs
    if [[ $hb_token == again && $hb_pid == 0 ]] || { [[ ! -e $case/exit.json ]] && hb_alive; }; then continue; fi
    HPCBENCH_CASE=$PWD/$case bash "$case/job.sh" --set-aside 2>"$hb_tmp/err" || hb_stop "$PWD/$case: $(hb_errors)"
    rm -f -- "$case/refused"
    # a feeder that is at work does not take it before it is sent
    (set -o noclobber && printf '{"token": "again", "pid": 0}\n' >"$case/started.json") 2>/dev/null
  done
  hb_line done
}
