# A Cerebras user node: process.sh, and the jobs that cszoo has on the cluster end with their case.
# shellcheck disable=SC2034
hb_turns=cerebras # the runs of a user take turns on the cluster, from whichever user node
hb_jobs() { # CASE: its jobs that have not ended: those its log names, and those with its label
  local label listed logged
  if [[ -e $1/exit.json ]] && grep -q '"end": true' "$1/exit.json"; then return; fi # it came to its end, and so did they
  logged=$(grep -aho 'Job id: wsjob-[A-Za-z0-9._-]*' "$1/stdout.log" 2>/dev/null | sed 's/^Job id: //' | sort -u | tr '\n' ' ')
  label=$(grep -o 'name=hb-[A-Za-z0-9_.-]*' "$1/job.sh" 2>/dev/null | head -n 1)
  if listed=$(timeout 20 csctl get jobs 2>/dev/null </dev/null); then
    awk -v label="$label" -v logged="$logged" '
      BEGIN { split(logged, names, " "); for (i in names) mine[names[i]] = 1 }
      {
        job = ""; found = 0
        for (i = 1; i <= NF; i++) {
          if ($i ~ /^wsjob-/) { job = $i; if ($i in mine) found = 1 }
          count = split($i, labels, ",")
          for (j = 1; j <= count; j++) if (label != "" && labels[j] == label) found = 1
        }
        if (found && job != "") print job
      }' <<<"$listed"
  else
    printf '%s' "${logged// /$'\n'}"
  fi
}
hb_end_jobs() { # JOB...
  local job
  for job; do
    printf '%s: %s\n' "$job" "$(timeout 20 csctl cancel job "$job" 2>&1 </dev/null)"
  done
}
