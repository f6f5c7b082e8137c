# What is known of a case on a machine without a scheduler, to whoever asks (process.sh) and to the feeder (feed.sh).
hb_stat() { # PID: sets hb_state, hb_session and hb_since, which tells it from a later process of that number
  local stat=
  read -r -d '' stat 2>/dev/null <"/proc/$1/stat"
  [[ -n $stat ]] || return
  # shellcheck disable=SC2086
  set -- ${stat##*) }
  hb_state=$1 hb_session=$4 hb_since=${20}
}
hb_booted() { # which start of this host this is
  cat /proc/sys/kernel/random/boot_id 2>/dev/null
}
hb_here() { # this host, as job scripts write it
  local host
  host=$(uname -n)
  printf '%s' "${host//[^A-Za-z0-9._-]/_}"
}
hb_read() { # CASE: sets hb_token, hb_host, hb_pid, hb_birth and hb_boot from its started.json
  local record= name
  read -r record 2>/dev/null <"$1/started.json"
  for name in token host pid birth boot; do
    hb_value=
    [[ $record =~ \"$name\":\ \"?([A-Za-z0-9._+-]*) ]] && hb_value=${BASH_REMATCH[1]}
    printf -v "hb_$name" %s "$hb_value"
  done
}
hb_is_here() { # whether what hb_read read is of this host, since it was started
  [[ $hb_host == "$(hb_here)" && $hb_boot == "$(hb_booted)" && $hb_pid -gt 0 ]]
}
hb_alive() { # whether the process that hb_read read of runs, on this host
  hb_is_here && hb_runs "$hb_pid" "$hb_birth"
}
hb_runs() { # PID BIRTH
  hb_stat "$1" && [[ $hb_state != [ZX] && ($2 == 0 || $hb_since == "$2") ]]
}
hb_kill_session() { # PID BIRTH: kill what still runs in the session that a job script leads, or led
  local entry found tries
  for ((tries = 0; tries < 50; tries++)); do
    # a process of this number that is another one: then nothing was left, or the number would not have been free
    if hb_stat "$1" && [[ $2 != 0 && $hb_since != "$2" ]]; then return; fi
    found=
    for entry in /proc/[0-9]*; do
      if hb_stat "${entry#/proc/}" && [[ $hb_session == "$1" && $hb_state != [ZX] ]]; then
        kill -KILL "${entry#/proc/}" 2>/dev/null
        found=yes
      fi
    done
    [[ -n $found ]] || return 0
    sleep 0.1
  done
}
hb_jobs() { # CASE: prints what it runs elsewhere, which does not end with its process
  :
}
hb_end_jobs() { # JOB...
  :
}
