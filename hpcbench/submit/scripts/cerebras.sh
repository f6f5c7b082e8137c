# A Cerebras user node: process.sh, and the jobs that cszoo started on the cluster are cancelled with it.
hb_before_end() { # CASE
  local job
  # cszoo names its jobs in the log; the cluster would go on with them after cszoo is gone
  grep -ho 'Job id: wsjob-[A-Za-z0-9._-]*' "$1/stdout.log" 2>/dev/null | sed 's/^Job id: //' | sort -u |
    while read -r job; do
      csctl cancel job "$job" 2>&1 | sed "s/^/$job: /"
    done
}
