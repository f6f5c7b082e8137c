"""Run a program and write down how it ended: `measure.py OUTPUT PROGRAM [ARGUMENT ...]`.

OUTPUT gets one line: exit status, signal number (0: none), seconds it took, peak memory in bytes of the largest
process, CPU seconds in user and in system mode. The job script of a case uses this where the site has a Python, of
any version from 3.6 on.
"""

import os
import signal
import sys
import time


def main() -> None:
    """Run the command and end as it ended, a signal as 128 and its number."""
    output, command = sys.argv[1], sys.argv[2:]
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, a program expects them
            signal.signal(number, signal.SIG_DFL)
        try:
            os.execvp(command[0], command)  # noqa: S606
        except OSError as error:
            sys.stderr.write(f"{command[0]}: {error.strerror}\n")
            sys.stderr.flush()
            os._exit(127 if isinstance(error, FileNotFoundError) else 126)
    # whoever stops the job signals the whole group: the program decides, this only waits to tell how it ended
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _, status, usage = os.wait4(pid, 0)
    wall = time.monotonic() - started
    killer = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    code = 0 if killer else os.WEXITSTATUS(status)
    memory = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)  # bytes on macOS, KiB elsewhere
    with open(output, "w") as stream:  # noqa: PTH123
        stream.write(f"{code} {killer} {wall:f} {memory} {usage.ru_utime:f} {usage.ru_stime:f}\n")
    sys.exit(128 + killer if killer else code)


if __name__ == "__main__":
    main()
