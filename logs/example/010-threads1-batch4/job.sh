#!/usr/bin/env bash
# One case of a benchmark. Runs its program once and leaves, whatever happens, exit.json beside this file.
# Everything here is bash and, where there is one, the system's Python; nothing needs to be installed.
hb_token='hb-example-010-threads1-batch4'
cd -- "$(dirname -- "${BASH_SOURCE[0]}")" || exit 74

hb_now() { local now=${EPOCHREALTIME:-$(date +%s)}; printf '%s' "${now/,/.}"; }
hb_oom_kills() { # how many processes the kernel has killed for memory so far
  local key value
  while read -r key value; do [[ $key == oom_kill ]] && printf '%s' "$value"; done 2>/dev/null </proc/vmstat
}
hb_host=$(uname -n)
hb_host=${hb_host//[^A-Za-z0-9._-]/_}
hb_birth=0
if read -r hb_stat 2>/dev/null <"/proc/$$/stat"; then # the 22nd field: when this process began
  read -r -a hb_fields <<<"${hb_stat##*) }"
  hb_birth=${hb_fields[19]}
fi
read -r hb_boot 2>/dev/null </proc/sys/kernel/random/boot_id || hb_boot=
hb_started=$(hb_now)
hb_oom_before=$(hb_oom_kills)

# Only one can create this file: a second submission of the same case ends here, having done nothing.
set -o noclobber
if ! printf '{"token": "%s", "host": "%s", "pid": %d, "birth": %s, "boot": "%s", "time": %s}\n' \
  "$hb_token" "$hb_host" "$$" "$hb_birth" "$hb_boot" "$hb_started" 2>/dev/null >started.json; then
  [[ -s started.json ]] && exit 0
  exit 74
fi
set +o noclobber
exec </dev/null >stdout.log 2>stderr.log

hb_reason=
hb_pid=
hb_killer=
hb_watchdog=
hb_home=$PWD
hb_finish() {
  local status=$? ended code=0 killer=0 wall=null memory=null user=null system=null signal=null
  trap '' TERM INT HUP USR1
  set +eu # whatever the site's setup has set
  cd -- "$hb_home" || return
  ended=$(hb_now)
  [[ -n $hb_pid ]] || hb_reason=${hb_reason:-setup} # it never came to the program
  for pid in $hb_killer $hb_watchdog $hb_pid; do # and what the program left running
    kill -KILL -- "-$pid" 2>/dev/null
  done
  if ! read -r code killer wall memory user system 2>/dev/null <.usage; then
    # no Python to ask: a status above 128 is bash's word for a signal
    code=$status killer=0 wall=null memory=null user=null system=null
    if ((status > 128)) && kill -l "$((status - 128))" &>/dev/null; then killer=$((status - 128)); fi
  fi
  rm -f .usage
  ((killer)) && code=null signal="\"$(kill -l "$killer")\""
  printf '{"status": %s, "signal": %s, "reason": %s, "started": %s, "ended": %s, "host": "%s",' \
    "$code" "$signal" "${hb_reason:+\"}${hb_reason:-null}${hb_reason:+\"}" "$hb_started" "$ended" "$hb_host" >exit.json.tmp &&
    printf ' "wall_time": %s, "max_memory": %s, "user_time": %s, "system_time": %s, "oom_kills": %d}\n' \
      "$wall" "$memory" "$user" "$system" "$(($(hb_oom_kills) - hb_oom_before))" >>exit.json.tmp &&
    mv -f exit.json.tmp exit.json
}
hb_stop() { # end the program and all it started: first asked, after ten seconds killed
  hb_reason=${hb_reason:-$1}
  [[ -n $hb_pid ]] || exit 143
  kill -TERM -- "-$hb_pid" 2>/dev/null
  [[ -n $hb_killer ]] || { { sleep 10; kill -KILL -- "-$hb_pid"; } 2>/dev/null & hb_killer=$!; }
}
trap hb_finish EXIT
trap 'hb_stop terminated' TERM INT HUP
trap 'hb_stop time_limit' USR1
set -m # a process group for each thing started below, so that it can be ended whole

export OMP_WAIT_POLICY='passive'

hb_wrap=()
if perf stat -o /dev/null -- true &>/dev/null; then hb_wrap+=(perf stat -o perf.txt --); fi
# inside perf, which hides the signal that ended a program
if python3 -I -S -c '' &>/dev/null; then hb_wrap+=(python3 -I -S measure.py .usage); fi

"${hb_wrap[@]}" python3 gpt2.py --threads=1 --batch=4 --sequence-length=64 --size=small --layers=0 --heads=0 --channels=0 --steps=20 --warmup-steps=3 --validate-every=10 --validation-batches=5 --dtype=float32 --compile=false --matmul=default --device=auto --data= --tokenizer= --seed=1337 --learning-rate=0.0006 --sample-tokens=64 &
hb_pid=$!
while :; do # a signal ends `wait` early
  wait "$hb_pid"
  hb_status=$?
  kill -0 "$hb_pid" 2>/dev/null || break
done
exit "$hb_status"
