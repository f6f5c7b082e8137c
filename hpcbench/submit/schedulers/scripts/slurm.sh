# Slurm's side of common.sh.
# What a profile sets there would go before the directives of a script, and hide jobs.
unset "${!SBATCH_@}" "${!SQUEUE_@}" "${!SACCT_@}" "${!SCANCEL_@}"
hb_facts() { # PARTITION: the longest array, and the longest job of the partition
  local out
  out=$(scontrol show config 2>&1) || { printf '%s\n' "$out" >&2; return 1; }
  sed -n 's/^MaxArraySize *= */MaxArraySize=/p' <<<"$out"
  [[ -z ${1-} ]] || sinfo -h -p "$1" -o 'MaxTime=%l' 2>&1 | head -n 1
}
hb_send() { # GROUP TOKEN ARRAY CASE: prints the job's number
  if [[ -n $3 ]]; then
    sbatch --parsable --job-name="$2" --array="$3" --output="groups/$1.%a.log" "groups/$1.sh"
  else
    cd -- "$4" && sbatch --parsable --job-name="$2" job.sh
  fi | sed -n 's/^\([0-9][0-9]*\)\(;.*\)\{0,1\}$/\1/p' | tail -n 1 # some sites' sbatch greets before it answers
  return "${PIPESTATUS[0]}"
}
hb_find() { # GROUP TOKEN: the jobs of that name that were submitted from here
  local out
  out=$(squeue -h -a -t all -u "$(id -un)" -o '%F|%j|%Z' 2>&1) || { printf '%s\n' "$out"; return 1; }
  {
    printf '%s\n' "$out"
    # from when the run's folder was made: another run of that name may have been there before
    sacct -X -n -P -S "$(date -r id +%FT%T 2>/dev/null || echo now-30days)" -u "$(id -un)" --name="$2" -o JobID,JobName,WorkDir 2>/dev/null | sed 's/^\([0-9]*\)_[^|]*/\1/'
  } | here=$PWD name=$2 awk -F '|' '
    { folder = substr($0, length($1 $2) + 3) }
    $2 == ENVIRON["name"] && index(folder "/", ENVIRON["here"] "/") == 1 { print $1 }'
  hb_started "$1"
}
hb_refusal() { # STATUS WORDS: rejected, full (try later), or unsure whether a job was made
  case $2 in # sbatch itself, whose status is then 255
    *"unrecognized option"* | *"invalid option"* | *"requires an argument"* | *"is ambiguous"*) echo rejected && return ;;
  esac
  if (($1 == 0 || $1 > 128)); then # no number, or ended by a signal
    echo unsure
    return
  fi
  case $2 in
    *"timed out"* | *"Unable to contact"* | *"Zero Bytes"* | *"onnection"* | *"endpoint"* | *"ommunication"* | *standby* | "")
      echo unsure ;;
    *SubmitJob* | *"temporarily unable"*) echo full ;;
    # all that a limit of the accounting is called where its name is not said; with no job there is nothing to wait for
    *Assoc*Limit* | *QOS*Limit*) echo rejected ;;
    *"submit limit"*) if [[ -n $(squeue -h -u "$(id -un)" -o %F 2>&1 | head -n 1) ]]; then echo full; else echo rejected; fi ;;
    *) echo rejected ;;
  esac
}
hb_query() { # JOB...: one query for all; those that it no longer knows from the accounting, where there is one
  local gone
  squeue -h -a -r -t all -u "$(id -un)" -o '%F|%K|%T|%r' >"$hb_tmp/queue" || return
  cat "$hb_tmp/queue"
  awk -F '|' '{ print $2 == "N/A" ? $1 : $1 "_" $2 }' "$hb_tmp/queue" | LC_ALL=C sort >"$hb_tmp/seen"
  gone=$(printf '%s\n' "$@" | LC_ALL=C sort -u | LC_ALL=C comm -23 - "$hb_tmp/seen" | sed 's/_.*//' | sort -u | paste -sd ,)
  # its window begins at midnight unless it is told
  [[ -n $gone ]] || return 0
  if sacct -X -n -P -j "$gone" -S now-30days -o JobID,State,ExitCode >"$hb_tmp/gone" 2>"$hb_tmp/why"; then
    sed 's/^/sacct|/' "$hb_tmp/gone"
  elif ! grep -q disabled "$hb_tmp/why"; then # it is there and does not answer: what it knows is not known
    printf 'sacct|silent\n'
  fi
  return 0
}
hb_cancel() { # JOB...
  printf '%s\n' "$@" | xargs -r scancel
}
hb_try() { # SCRIPT: whether sbatch would take a job like that; none is made
  local words
  [[ -n $1 ]] || return 0
  if words=$(sbatch --test-only <<<"$1" 2>&1); then echo ok; else hb_refusal "$?" "$words"; fi
  printf '%s\n' "$words" >&2
}
hb_accounts() {
  sacctmgr -n -P show assoc user="$(id -un)" format=account 2>/dev/null | sort -u
}
