# Runs the cases of one run on this machine, in order, as many at a time as its slots; started by process.sh.
# Everything it needs to know is in the files of the run, so that it can be killed and started again at any time.
# While a case runs it sleeps; what it starts besides does not inherit its locks, which must go when it goes.
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." || exit 74
command -v flock >/dev/null || { printf 'there is no flock on %s\n' "$(uname -n)"; exit 69; }
exec 9>>lock || exit 74
flock -w 2 9
case $? in
0) ;;
1) exit 0 ;; # another feeder is at work, and looks once more after it gave up the lock
*) printf 'no file can be locked in %s\n' "$PWD"; exit 74 ;;
esac
hb_stat "$$"
printf '%s %s %s %s\n' "$(uname -n)" "$$" "$hb_since" "$(hb_booted)" >.feeder && mv -f .feeder feeder || exit 74
slots=$(cat groups/slots 2>/dev/null)
slots=${slots:-1}
declare -A running=() pinned=() tried=()

hb_next() { # sets `next`: the first case that nobody has started
  local case
  while IFS= read -r case; do
    [[ -e $case/started.json || -e $case/refused || -n ${tried[$case]-} ]] && continue
    next=$case
    return
  done < <(cat groups/g*.cases 2>/dev/null)
  return 1
}
hb_turn() { # runs that overlap would measure each other: those of one user take turns
  local folder=${XDG_CACHE_HOME:-$HOME/.cache}/hpcbench file
  mkdir -p -- "$folder" 2>/dev/null
  for file in "$folder/${hb_turns:-$(hb_here)}.lock" "/tmp/hpcbench-$UID.lock"; do
    exec 8>>"$file" || continue
    while :; do
      flock -w 30 8 9>&-
      case $? in
      0) return ;;
      1) hb_next || exit 0 ;; # all that waited was cancelled
      *) continue 2 ;;
      esac
    done
  done
  printf 'neither %s nor /tmp takes a lock\n' "$folder"
}
hb_adopt() { # cases of a feeder that was killed: some run, some have left something running
  local case
  while IFS= read -r case; do
    [[ -s $case/started.json && ! -e $case/exit.json ]] || continue
    hb_read "$case"
    hb_is_here || continue
    running[$case]="$hb_pid $hb_birth"
    if hb_alive; then pinned[$case]=" $(hb_allowed "$hb_pid") "; fi
  done < <(cat groups/g*.cases 2>/dev/null)
}
hb_allowed() { # PID: prints the processors it may use
  local key list part
  while read -r key list; do [[ $key != Cpus_allowed_list: ]] || break; done 2>/dev/null <"/proc/$1/status"
  for part in ${list//,/ }; do
    for ((key = ${part%-*}; key <= ${part#*-}; key++)); do printf '%d ' "$key"; done
  done
}
hb_processors() { # sets `processors`: one of each core first, since two threads of one share it
  local one siblings later=()
  local -A seen=()
  processors=()
  for one in $(hb_allowed "$$"); do
    siblings=$one
    read -r siblings 2>/dev/null <"/sys/devices/system/cpu/cpu$one/topology/thread_siblings_list"
    if [[ -z ${seen[$siblings]-} ]]; then processors+=("$one"); else later+=("$one"); fi
    seen[$siblings]=yes
  done
  processors+=("${later[@]}")
}
hb_place() { # CASE: sets `pin` and `cores`; fails while the cores that it asks for are taken
  local wanted one
  cores=() pin=()
  wanted=$(sed -n '/^  "resources": {/,/^  }/s/^    "cores": \([0-9][0-9]*\).*/\1/p' "$1/case.json" 2>/dev/null)
  if [[ -z $wanted ]] || ! command -v taskset >/dev/null; then return 0; fi
  if ((wanted > ${#processors[@]})); then ((${#running[@]} == 0)); return; fi # all there are, and alone
  for one in "${processors[@]}"; do
    [[ " ${pinned[*]} " == *" $one "* ]] || cores+=("$one")
  done
  ((${#cores[@]} >= wanted)) || return
  cores=("${cores[@]:0:wanted}")
  printf -v one '%s,' "${cores[@]}"
  pin=(taskset -c "${one%,}")
}
hb_start() { # CASE
  local pid tries
  setsid "${pin[@]}" bash "$1/job.sh" 8>&- 9>&- </dev/null &
  pid=$!
  hb_since=gone
  hb_stat "$pid"
  running[$1]="$pid $hb_since" pinned[$1]=" ${cores[*]} " tried[$1]=yes
  for ((tries = 0; tries < 200; tries++)); do
    [[ -e $1/started.json ]] && return
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.05 8>&- 9>&-
  done
  if [[ ! -e $1/started.json ]] && ! kill -0 "$pid" 2>/dev/null; then
    wait "$pid"
    printf '%s: its job script ended with status %d before it began\n' "$1" "$?" | tee -- "$1/refused"
  fi
}
hb_reap() { # of what has ended nothing may go on and disturb the next
  local case pid birth job jobs
  for case in "${!running[@]}"; do
    read -r pid birth <<<"${running[$case]}"
    hb_runs "$pid" "$birth" && continue
    hb_kill_session "$pid" "$birth" 8>&- 9>&-
    jobs=()
    while read -r job; do jobs+=("$job"); done < <(hb_jobs "$case" 8>&- 9>&-)
    ((${#jobs[@]} == 0)) || hb_end_jobs "${jobs[@]}" 8>&- 9>&-
    unset "running[$case]" "pinned[$case]"
  done
}
hb_pause() {
  local pid
  if ((slots == 1)); then # the end of a case of this feeder's own is noticed at once
    read -r pid _ <<<"${running[*]}"
    wait "$pid" 2>/dev/null
    (($? != 127)) || sleep 1 8>&- 9>&-
  else
    sleep 1 8>&- 9>&-
  fi
}

hb_turn
hb_processors
hb_adopt
while :; do
  hb_reap
  while ((${#running[@]} < slots)) && hb_next && hb_place "$next"; do hb_start "$next"; done
  if ((${#running[@]})); then
    hb_pause
    continue
  fi
  # whoever brings more cases now either finds the lock free, or has brought them before this looks again
  exec 9>&-
  hb_next || exit 0
  exec 9>>lock
  flock -w 2 9 || exit 0
done
