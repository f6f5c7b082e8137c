# What every command of hpcbench on a site begins with: bash, coreutils, tar, gzip and find, nothing to install.
# It answers in lines that begin with "hb" and a tab; what a login shell prints besides is passed over.
trap : PIPE HUP # a client that goes away must not stop a submission half-way
hb_tmp=$(mktemp -d 2>/dev/null) || { printf 'hb\tproblem\t%s\n' "cannot write in ${TMPDIR:-/tmp} there"; exit 0; }
trap 'rm -rf -- "$hb_tmp"' EXIT

printf '\n' # after what a login shell may have printed without a line's end
hb_line() { # WORD...
  local IFS=$'\t'
  printf 'hb\t%s\n' "$*"
}
hb_text() { # NAME STATUS TEXT: text of several lines, its length ahead
  local LC_ALL=C
  printf 'hb\ttext\t%s\t%d\t%d\n%s\n' "$1" "$2" "${#3}" "$3"
}
hb_ask() { # NAME COMMAND...: what a command printed, and what it complained of
  local name=$1 out status
  shift
  out=$("$@" 2>"$hb_tmp/err")
  status=$?
  hb_text "$name" "$status" "$out"
  hb_text "$name-errors" "$status" "$(<"$hb_tmp/err")"
}
hb_stop() { # SENTENCE
  hb_line problem "${*//$'\n'/ }"
  exit 0
}
hb_errors() { # what the last command complained of, on one line
  tr -s '\n\t' '  ' <"$hb_tmp/err" | cut -c1-500
}
hb_expand() { # TEXT: a leading ~ and $NAME are the site's; nothing else is looked at
  local text=$1 out= name
  if [[ $text == "~" || $text == "~/"* ]]; then text=$HOME${text:1}; fi
  while [[ $text =~ ^([^$]*)\$(\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))(.*)$ ]]; do
    name=${BASH_REMATCH[3]}${BASH_REMATCH[4]}
    [[ -n ${!name-} ]] || hb_stop "folder: \$$name is not set there"
    out+=${BASH_REMATCH[1]}${!name}
    text=${BASH_REMATCH[5]}
  done
  REPLY=$out$text
}
hb_enter() { # FOLDER: the folder of a run
  [[ -e $1 ]] || hb_stop "the run's folder $1 is gone there; what came back before is here, the rest is lost"
  cd -P -- "$1" 2>"$hb_tmp/err" || hb_stop "$(hb_errors)" # a scheduler knows folders without their symbolic links
}
hb_birth() { # PID: when a process began, nothing when it is gone
  local stat fields
  read -r stat 2>/dev/null <"/proc/$1/stat" || return
  read -r -a fields <<<"${stat##*) }"
  [[ ${fields[0]} == [ZX] ]] || REPLY=${fields[19]}
}

hb_prepare() { # FOLDER RUN ID new|there [WORD...]: make the run's folder, then this run's alone; tell the scheduler's limits
  local folder run=$2 id=$3
  hb_expand "$1"
  folder=$REPLY
  if [[ $4 == there && ! -s $folder/$run/id ]]; then
    hb_stop "the run's folder $folder/$run is gone there, or this is another host; what came back before is here"
  fi
  mkdir -p -- "$folder/$run/groups" 2>"$hb_tmp/err" || hb_stop "cannot make the folder $folder/$run: $(hb_errors)"
  hb_enter "$folder/$run"
  if ! (set -o noclobber && printf '%s\n' "$id" >id) 2>"$hb_tmp/err"; then
    [[ -s id ]] || sleep 1 # another is just writing it
    [[ -s id ]] || { rm -f id; hb_stop "cannot write in $PWD: $(hb_errors)"; }
    [[ $(<id) == "$id" ]] || hb_stop "$PWD belongs to another run of that name: choose another with --name"
  fi
  hb_line folder "$PWD"
  shift 4
  hb_ask facts hb_facts "$@"
}

hb_unpack() { # standard input: new cases below new/, and groups/
  local incoming
  incoming=$(mktemp -d .incoming.XXXXXX 2>"$hb_tmp/err") && tar -xzf - -C "$incoming" 2>"$hb_tmp/err" || {
    [[ -z $incoming ]] || rm -rf -- "$incoming"
    hb_stop "cannot write in $PWD: $(head -n 1 -- "$hb_tmp/err")" # the others say the same
  }
  # whole or not at all: a connection that breaks leaves no half of a case
  if [[ -d $incoming/new ]]; then
    # what is there already stays; with -n some versions of mv call that an error
    find "$incoming/new" -mindepth 1 -maxdepth 1 -print0 | while IFS= read -r -d '' entry; do
      [[ -e ./${entry##*/} ]] || printf '%s\0' "$entry"
    done | xargs -0 -r mv -t . -- 2>"$hb_tmp/err" || hb_stop "$(hb_errors)"
  fi
  if [[ -d $incoming/groups ]]; then
    find "$incoming/groups" -mindepth 1 -maxdepth 1 -print0 | xargs -0 -r mv -f -t groups -- 2>"$hb_tmp/err" || hb_stop "$(hb_errors)"
  fi
  rm -rf -- "$incoming"
}

hb_submit() { # FOLDER send|look PATIENCE GROUP...: send groups to the scheduler, in order, each once; or only look for them
  local how=$2 patience=$3 group
  hb_enter "$1"
  hb_unpack
  shift 3
  for group; do
    hb_group "$group" "$how" "$patience" || how=leave # in order: none goes before one that was refused
  done
  hb_line done
}
hb_group() { # GROUP send|look|leave PATIENCE: submit a group unless it was; adopt its job where that is not known
  # it returns 1 where a group was refused, and 0 also where nobody hears of it any more
  local group=$1 mode=$2 patience=$3 number=1 since=$SECONDS id status limit words how
  local host pid birth when works token array case
  IFS=$'\t' read -r token case array <"groups/$group.what" # the array last: it may be empty
  until hb_claim "$group" "$number"; do
    # whoever began may still be at it: asked before its result, which is there before it ends
    host='' pid='' birth='' when='' works=
    read -r host pid birth when 2>/dev/null <"groups/$group.claim.$number"
    if hb_works "$host" "$pid" "$birth"; then works=yes; fi
    if [[ -s groups/$group.id ]]; then
      id=$(<"groups/$group.id")
      if [[ $id == - ]]; then hb_line none "$group"; else hb_line submitted "$group" "$id"; fi
      return 0
    fi
    hb_line waiting "$group" # so that whoever listens knows that this lives
    if [[ -n $works ]]; then
      sleep 0.5
      continue
    fi
    id=$(hb_seek "$group" "$token") || hb_stop "the scheduler does not answer: $id"
    if [[ -n $id ]]; then
      hb_keep "$group" "$id"
      hb_line adopted "$group" "$id"
      return 0
    fi
    # What it asked for may arrive after it is gone; and on another host it may still be at it. Its clock may be
    # another one, and a claim without a word is being written: so long as it takes by the clock of this host.
    limit=$patience
    [[ $host == "$(uname -n)" ]] || limit=$((4 * patience))
    if ((SECONDS - since < limit && $(date +%s) - ${when:-$(date +%s)} < limit)); then
      sleep 1
      continue
    fi
    number=$((number + 1)) since=$SECONDS
  done
  if [[ $mode != send ]]; then
    # kept as "-": a command that was cut off and still works through its groups must not send it either
    hb_keep "$group" - || hb_stop "cannot write in $PWD/groups"
    hb_line none "$group"
    return 0
  fi
  id=$(hb_send "$group" "$token" "$array" "$case" 2>"$hb_tmp/err" </dev/null)
  status=$?
  words=$(hb_errors)
  if ((status == 0)) && [[ -n $id ]]; then
    hb_keep "$group" "$id"
    hb_line submitted "$group" "$id"
    return 0
  fi
  how=$(hb_refusal "$status" "$words")
  # it says it failed, and the job may be there
  if [[ $how == unsure ]] && id=$(hb_seek "$group" "$token" 2>/dev/null) && [[ -n $id ]]; then
    hb_keep "$group" "$id"
    hb_line adopted "$group" "$id"
    return 0
  fi
  # refused for good: hpcbench makes another group of its cases, so nobody may send this one any more
  [[ $how == unsure ]] || hb_keep "$group" - || how=unsure
  hb_line "$how" "$group" "$words"
  return 1
}
hb_seek() { # GROUP TOKEN: the group's job; not that of an earlier attempt, which has the same name where it is a single one
  local found
  found=$(hb_find "$@") || { printf '%s\n' "$found"; return 1; }
  hb_others "$1" <<<"$found" | head -n 1
}
hb_others() { # GROUP: of the jobs on standard input those that no other group has
  grep . | grep -vxFf <(find groups -name '*.id' ! -name "$1.id" -exec cat -- {} +)
}
hb_judge() { # STATUS WORDS
  hb_line "$(hb_refusal "$@")"
}
hb_claim() { # GROUP NUMBER: only one can make this file, on any file system
  local file=groups/$1.claim.$2
  REPLY=
  hb_birth "$$"
  (
    set -o noclobber
    exec 3>"$file" || exit 1
    printf '%s %s %s %s\n' "$(uname -n)" "$$" "$REPLY" "$(date +%s)" >&3 || exit 2
  ) 2>/dev/null
  case $? in
    0) return 0 ;;
    2) rm -f -- "$file" ;; # the disk is full: nobody could tell whose claim that is
    *) [[ ! -e $file ]] || return 1 ;;
  esac
  hb_stop "cannot write in $PWD/groups"
}
hb_works() { # HOST PID BIRTH
  [[ $1 == "$(uname -n)" ]] || return 1
  REPLY=
  hb_birth "$2"
  [[ -n $REPLY && $REPLY == "$3" ]]
}
hb_keep() { # GROUP ID: remember it, whole or not at all
  printf '%s\n' "$2" >"groups/.$1.id.$$" && mv -f -- "groups/.$1.id.$$" "groups/$1.id"
}
hb_started() { # GROUP: the job that a case of this group says it ran as
  local case
  while read -r case; do
    sed -n 's/.*"job": "\([^"_]*\).*/\1/p' "$case/started.json" 2>/dev/null
  done <"groups/$1.cases" | head -n 1
}

hb_refresh() { # FOLDER none|records|all MAX: ask for the jobs, then send what is new; standard input: count, jobs, known files
  local count jobs
  hb_enter "$1"
  IFS= read -r count
  jobs=()
  ((count == 0)) || mapfile -n "$count" -t jobs
  cat >"$hb_tmp/known"
  ((count == 0)) || hb_ask query hb_query "${jobs[@]}"
  hb_files "$2" "$3"
}
hb_files() { # none|records|all MAX
  [[ $1 != none ]] || return 0
  if [[ $1 == records ]]; then
    # small files that tell how cases stand; the logs of those that failed may say why
    find . -mindepth 2 -maxdepth 2 -type f \( -name exit.json -o -name started.json -o -name scheduler.log -o -path './groups/*.log' \) \
      -size -256k ! -name $'*\n*' -printf '%p\t%s\t%T@\n'
    find . -mindepth 2 -maxdepth 2 -type f -name exit.json ! -path $'*\n*' -exec grep -L '"status": 0,' {} + |
      sed 's,exit\.json$,stderr.log\n&,; s,exit\.json$,stdout.log,' | tr '\n' '\0' | xargs -0 -r sh -c \
      'exec find "$@" -maxdepth 0 -type f -size -256k -printf "%p\t%s\t%T@\n"' sh
  else
    # links, pipes and names that no line can hold stay there, and are named
    find . -mindepth 2 ! -path './.*' \( ! -type f ! -type d -o -type f -path $'*\n*' -o -type f -path $'*\t*' \) -print0 2>/dev/null |
      tr '\n\t\0' '??\n' | head -n 100 | sed $'s,^\\./,hb\tleft\t,' >"$hb_tmp/left"
    # what came from here is of one time: whatever a job wrote is newer
    find . -mindepth 2 -type f -newermt 2001-09-10 ! -path './.*' ! -path $'*\n*' ! -path $'*\t*' -printf '%p\t%s\t%T@\n'
  fi 2>/dev/null | sed -E 's/(\.[0-9]{9})[0-9]*$/\1/' | LC_ALL=C sort -u >"$hb_tmp/now"
  LC_ALL=C sort "$hb_tmp/known" | LC_ALL=C comm -13 - "$hb_tmp/now" >"$hb_tmp/new"
  [[ ! -s $hb_tmp/left ]] || cat "$hb_tmp/left"
  awk -F '\t' -v max="$2" '$2 > max { printf "hb\tlarge\t%s\t%s\n", $1, $2 }' "$hb_tmp/new"
  awk -F '\t' -v max="$2" '$2 <= max { printf "%s%c", $1, 0 }' "$hb_tmp/new" >"$hb_tmp/send"
  hb_line files
  tar --format=posix --no-recursion --null -T "$hb_tmp/send" -czf - 2>/dev/null
}

hb_end() { # FOLDER: cancel the jobs on standard input
  local jobs
  hb_enter "$1"
  mapfile -t jobs
  hb_ask cancel hb_cancel "${jobs[@]}"
}
hb_again() { # FOLDER: put aside what earlier attempts of the cases on standard input left
  local case
  hb_enter "$1"
  while IFS= read -r case; do
    HPCBENCH_CASE=$PWD/$case bash "$case/job.sh" --set-aside 2>"$hb_tmp/err" || hb_stop "$PWD/$case: $(hb_errors)"
  done
  hb_line done
}
hb_clean() { # FOLDER ID: delete the run there
  hb_enter "$1"
  [[ -s id && $(<id) == "$2" ]] || hb_stop "$PWD is not this run's"
  local folder=$PWD
  cd .. && rm -rf -- "$folder" 2>"$hb_tmp/err" || hb_stop "$(hb_errors)"
  hb_line done
}
hb_check() { # FOLDER PYTHON ACCOUNT SCRIPT TOOL... -- [WORD...]: what is there and what is missing; leaves nothing behind
  local folder python=$2 account=$3 script=$4 tool missing=() made
  hb_line host "$(uname -n)" "$(uname -sr)"
  hb_expand "$1"
  folder=$REPLY
  shift 4
  while (($#)) && [[ $1 != -- ]]; do
    command -v "$1" >/dev/null || missing+=("$1")
    shift
  done
  shift
  ((${#missing[@]} == 0)) || hb_line missing "${missing[@]}"
  hb_line python "$(command -v -- "$python")"
  hb_text tools 0 "$(command -v csctl cszoo >/dev/null && echo csctl)"
  hb_ask facts hb_facts "$@"
  hb_ask account hb_accounts "$account"
  hb_ask try hb_try "$script"
  made=$folder # the nearest folder that is there
  while [[ ! -d $made && $made == */* ]]; do made=${made%/*}; done
  if ! tool=$(mktemp -- "${made:-/}/.hpcbench.XXXXXX" 2>"$hb_tmp/err"); then
    hb_stop "cannot write in ${made:-/}: $(hb_errors)"
  fi
  rm -f -- "$tool"
  hb_line folder "$folder" "$(df -Pk -- "${made:-/}" 2>/dev/null | awk 'NR == 2 { print $4 }')"
}
hb_try() { # SCRIPT: whether the scheduler would take a job like that, where it tells
  :
}
hb_accounts() { # the accounts a job may name, where the scheduler tells
  :
}
