"""What runs jobs at a site: Slurm, PBS, or hpcbench's own feeder where there is no scheduler."""

from __future__ import annotations

from hpcbench.submit.schedulers.scheduler import Scheduler


def scheduler(name: str) -> Scheduler:
    """Return the scheduler of that name."""
    if name == "slurm":
        from hpcbench.submit.schedulers.slurm import Slurm

        return Slurm()
    if name == "pbs":
        from hpcbench.submit.schedulers.pbs import PBS

        return PBS()
    from hpcbench.submit.schedulers.appliance import Appliance

    return Appliance(name)
