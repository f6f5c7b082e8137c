# Slurm's side of common.sh.
hb_facts() { # PARTITION: the longest array, and the longest job of the partition
  scontrol show config 2>&1 | sed -n 's/^MaxArraySize *= */MaxArraySize=/p'
  [[ -z ${1-} ]] || sinfo -h -p "$1" -o 'MaxTime=%l' 2>&1 | head -n 1
}
hb_send() { # GROUP TOKEN ARRAY CASE: prints the job's number
  if [[ -n $3 ]]; then
    sbatch --parsable --job-name="$2" --array="$3" --output="groups/$1.%a.log" "groups/$1.sh"
  else
    cd -- "$4" && sbatch --parsable --job-name="$2" job.sh
  fi | head -n 1 | cut -d ';' -f 1
  return "${PIPESTATUS[0]}"
}
hb_find() { # GROUP TOKEN: the job of that name that was submitted from here
  local out
  out=$(squeue -h -t all -u "$(id -un)" -o '%F|%Z|%j' 2>&1) || { printf '%s\n' "$out"; return 1; }
  {
    awk -F '|' -v here="$PWD" -v name="$2" '$3 == name && ($2 == here || index($2, here "/") == 1) { print $1 }' <<<"$out"
    sacct -X -n -P -S now-30days -u "$(id -un)" --name="$2" -o JobID,WorkDir 2>/dev/null |
      awk -F '|' -v here="$PWD" '$2 == here || index($2, here "/") == 1 { sub(/_.*/, "", $1); print $1 }'
    hb_started "$1"
  } | head -n 1
}
hb_refusal() { # STATUS WORDS: rejected, full (try later), or unsure whether a job was made
  case $2 in
    *"timed out"* | *"Unable to contact"* | *"Zero Bytes"* | *"onnection"* | *"endpoint"* | *"ommunication"* | "") echo unsure ;;
    *SubmitJobLimit* | *MaxSubmitJob* | *"submit limit"* | *"temporarily unable"*) echo full ;;
    *) echo rejected ;;
  esac
}
hb_query() { # JOB...: one query for all; those that it no longer knows from the accounting, where there is one
  local gone
  squeue -h -r -t all -u "$(id -un)" -o '%F|%K|%T|%r' >"$hb_tmp/queue" || return
  cat "$hb_tmp/queue"
  awk -F '|' '{ print $2 == "N/A" ? $1 : $1 "_" $2 }' "$hb_tmp/queue" | LC_ALL=C sort >"$hb_tmp/seen"
  gone=$(printf '%s\n' "$@" | LC_ALL=C sort -u | LC_ALL=C comm -23 - "$hb_tmp/seen" | sed 's/_.*//' | sort -u | paste -sd ,)
  # its window begins at midnight unless it is told
  [[ -z $gone ]] || sacct -X -n -P -j "$gone" -S now-30days -o JobID,State,ExitCode 2>/dev/null | sed 's/^/sacct|/'
  return 0
}
hb_cancel() { # JOB...
  printf '%s\n' "$@" | xargs -r scancel
}
hb_accounts() {
  sacctmgr -n -P show assoc user="$(id -un)" format=account 2>/dev/null | sort -u
}
