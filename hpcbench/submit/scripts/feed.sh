# Runs the cases of one run on this machine, in order, one after another; started by process.sh.
# Everything it needs to know is in the files of the run, so that it can be killed and started again at any time.
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." || exit 74
exec 9>>lock || exit 74
if command -v flock >/dev/null; then
  flock -n 9 || exit 0 # another feeder is at work
fi
trap '' HUP PIPE
read -r stat <"/proc/$$/stat"
read -r -a fields <<<"${stat##*) }"
printf '%s %s %s\n' "$(uname -n)" "$$" "${fields[19]}" >.feeder && mv -f .feeder feeder
slots=$(cat groups/slots 2>/dev/null || echo 1)

# runs that overlap would measure each other: those of one user take turns
mkdir -p "$HOME/.cache/hpcbench" && exec 8>>"$HOME/.cache/hpcbench/$(uname -n).lock" && command -v flock >/dev/null && flock 8

alive() { # CASE: whether its job script still runs
  local pid birth
  pid=$(sed -n 's/.*"pid": \([0-9]*\).*/\1/p' "$1/started.json")
  birth=$(sed -n 's/.*"birth": \([0-9]*\).*/\1/p' "$1/started.json")
  read -r stat 2>/dev/null <"/proc/$pid/stat" || return 1
  read -r -a fields <<<"${stat##*) }"
  [[ ${fields[0]} != [ZX] && ($birth == 0 || ${fields[19]} == "$birth") ]]
}
finished() { # nothing is left to start
  local case
  next=
  while read -r case; do
    [[ -e $case/started.json || -e $case/cancelled || ! -e $case/job.sh ]] && continue
    next=$case
    return 1
  done < <(cat groups/g*.cases)
  return 0
}
busy() { # how many cases run; some may be those of a feeder that was killed
  local case count=0
  while read -r case; do
    if [[ -s $case/started.json && ! -e $case/exit.json ]] && alive "$case"; then count=$((count + 1)); fi
  done < <(cat groups/g*.cases)
  printf '%d' "$count"
}
until finished; do
  while (($(busy) >= slots)); do sleep 0.5; done
  finished && break
  setsid bash "$next/job.sh" 8>&- 9>&- </dev/null &
  job=$!
  if ((slots == 1)); then
    wait "$job"
    pkill -KILL -s "$job" 2>/dev/null # what the program left running must not disturb the next
    [[ -e $next/started.json ]] || { printf '%s could not start\n' "$next"; touch "$next/cancelled"; }
  else
    for ((tries = 0; tries < 100; tries++)); do [[ -e $next/started.json ]] && break; sleep 0.05; done
  fi
done
wait
