"""What a job asks its site for, and the directives that say so to a scheduler."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path

from hpcbench.benchmark import Benchmark
from hpcbench.errors import ConfigError, UsageError
from hpcbench.plan import Case
from hpcbench.site import MEMORY, TIME, Site, seconds
from hpcbench.templating import DIRECTIVES, PLAIN, render_text


@dataclass(frozen=True)
class Resources:
    """What one case asks its site for; None is left to the scheduler.

    GPUs are those of the whole job, cores and memory those of each node; memory is in Slurm's and PBS's form, ``8G``.
    """

    nodes: int
    cores: int | None
    gpus: int | None
    memory: str | None
    time: str | None


def resources_of(benchmark: Benchmark, case: Case, site: Site) -> Resources:
    """Return what a case asks for: what its benchmark says, else what its site gives every job."""

    def text(name: str) -> str | None:
        wanted = getattr(benchmark.resources, name)
        if not isinstance(wanted, str):
            return None if wanted is None else str(wanted)
        line = benchmark.origin.lines.get(("resources", name))
        return render_text(PLAIN, wanted, benchmark.origin.file, dict(case.parameters), line).strip()

    def count(name: str, least: int) -> int | None:
        found = text(name)
        if found is None:
            return None
        if not re.fullmatch(r"[0-9]{1,9}", found):
            raise benchmark.origin.error(f"resources.{name}: {found!r} is not a whole number", "resources", name)
        if int(found) < least:
            raise benchmark.origin.error(f"resources.{name}: {found} is below {least}", "resources", name)
        return int(found)

    def words(name: str, form: str, example: str) -> str | None:
        found = text(name)
        if found is not None and not re.fullmatch(form, found):
            raise benchmark.origin.error(f"resources.{name}: {found!r} is not like {example}", "resources", name)
        return found

    job = site.job
    every = benchmark.resources.cores == "all"
    # whoever sends the load must not be what is slow
    here = benchmark.needs == "endpoint" or (every and site.reach == "local" and site.scheduler == "process")
    wanted = Resources(
        nodes=count("nodes", 1) or job.nodes or 1,
        cores=(None if every else count("cores", 1)) or job.cores or (len(site.available_cores) if here else None),
        gpus=job.gpus if (gpus := count("gpus", 0)) is None else gpus,
        memory=words("memory", MEMORY, "8G") or job.memory,
        time=words("time", TIME, "01:00:00") or job.time,
    )
    limit = site.limits.time
    if wanted.time and limit and seconds(wanted.time) > seconds(limit):
        raise UsageError(f"case {case.name} asks for {wanted.time} and site {site.name} allows {limit}")
    allowed = site.limits.gpus
    if wanted.gpus is not None and allowed is not None and wanted.gpus not in allowed:
        choice = ", ".join(map(str, allowed))
        raise UsageError(f"case {case.name} asks for {wanted.gpus} GPUs and site {site.name} gives a job {choice}")
    return wanted


def head_name(site: Site) -> str:
    """Return which template begins a site's job scripts: a scheduler's name, or `process` where there is none."""
    return site.scheduler if site.scheduler in ("slurm", "pbs") else "process"


def head(template: Path, token: str, asked: Resources, site: Site) -> str:
    """Render the lines of a job script that tell a scheduler what the job asks for."""
    job = site.job
    chunks = asked.gpus if job.select == "gpus" else asked.nodes
    if chunks is None or chunks < 1:
        raise site.origin.error("job.select: gpus, so every job needs at least one: set job.gpus", "job", "select")
    per_node, rest = divmod(asked.gpus or 0, asked.nodes)
    if rest and job.select == "nodes" and site.scheduler == "pbs":
        raise UsageError(f"{asked.gpus} GPUs cannot be shared evenly by {asked.nodes} nodes of {site.name}")
    each = {"ncpus": asked.cores, "ngpus": per_node, "mem": asked.memory and asked.memory.lower() + "b"}
    select = [str(chunks)] + [f"{name}={value}" for name, value in each.items() if value and job.select == "nodes"]
    names = {
        **asdict(asked),
        "token": token,
        "account": job.account,
        "partition": job.partition,
        "queue": job.queue,
        "gpu_type": job.gpu_type,
        "filesystems": job.filesystems,
        "select": ":".join(select),
        "directives": _extra_directives(site.scheduler, site),
    }
    try:
        return render_text(DIRECTIVES, template.read_text(encoding="utf-8"), template, names)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", template) from None


# what a job script of ours must keep: its name, where its output goes, and what the keys of `job` say
_OWNED = {
    "slurm": """
        --account --array --chdir --cpus-per-task --error --gpus --job-name --mem --nodes --ntasks --ntasks-per-node
        --open-mode --output --parsable --partition --test-only --time --wrap -A -D -G -J -N -a -c -e -n -o -p -t
        --clusters --gpus-per-node --gpus-per-task --gres --mem-per-cpu --mem-per-gpu --wait -M -W
    """,
    "pbs": "-A -C -I -J -N -S -V -X -e -j -k -o -q -v -z walltime select filesystems block",
}


def _extra_directives(scheduler: str, site: Site) -> list[str]:
    """Return the site's own directives, which may add to those of the template but replace none."""
    owned = set(_OWNED.get(scheduler, "").split())
    for index, directive in enumerate(site.job.directives):
        option, value = re.match(r"(--[^= ]+|-.)[= ]?(.*)", directive).groups()  # type: ignore[union-attr]
        long = [name for name in owned if name.startswith("--") and option.startswith("--") and name.startswith(option)]
        names = {item.partition("=")[0] for item in re.split(r"[,:]", value)} if option in ("-l", "-W") else set()
        if taken := sorted({option, *long[:1], *names} & owned):
            raise site.origin.error(
                f"job.directives: hpcbench sets {taken[0]} itself; say it by the keys of `job`",
                "job", "directives", index,
            )  # fmt: skip
    return list(site.job.directives)


def own_limit(time: str | None, site: Site) -> int | None:
    """Return after how many seconds the job script ends its program itself: before a scheduler would kill both."""
    if time is None:
        return None
    limit = seconds(time)
    return limit if site.scheduler in ("process", "cerebras") else limit - min(30, limit // 10)
