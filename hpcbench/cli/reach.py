"""The commands about one site: check and login."""

from __future__ import annotations

import sys

import click

from hpcbench.cli.shared import emit, json_option
from hpcbench.errors import SiteError


@click.command(short_help="Tell whether a site can be used, and what is missing.")
@click.argument("site")
@json_option
def check(site: str, as_json: bool) -> None:
    """Try SITE: reach, login, folder, scheduler, account, limits, token and models, one line each with the mend."""
    from hpcbench.submit.check import check as check_site

    worst = "ok"
    lines = []
    for line in check_site(site):
        lines.append(line)
        worst = max(worst, line.verdict, key=("ok", "unknown", "bad").index)
        if not as_json:
            mark = click.style(
                f"{line.verdict:<7}", fg={"ok": "green", "unknown": "yellow", "bad": "red"}[line.verdict]
            )
            click.echo(f"{mark}  {line.what:<10}  {line.said}" + (f"; {line.mend}" if line.mend else ""))
    if as_json:
        emit("check", {
            "site": site,
            "checks": [
                {"what": line.what, "verdict": line.verdict, "said": line.said, "mend": line.mend or None}
                for line in lines
            ],
        })  # fmt: skip
    if worst == "bad":
        sys.exit(SiteError.exit_code)


@click.command(short_help="Open the connection to a site that asks for a passcode.")
@click.argument("site")
@click.option("--out", is_flag=True, help="Close it instead.")
def login(site: str, out: bool) -> None:
    """Open one connection to SITE, which the other commands then share; a passcode is typed once and never kept."""
    from hpcbench import site as sites
    from hpcbench.errors import UsageError
    from hpcbench.submit.reach import openssh

    reach = sites.load(site).reach
    if isinstance(reach, str) or not reach.kept_open:
        raise UsageError(f"site {site} needs no login: its commands connect by themselves")
    (openssh.logout if out else openssh.login)(reach, site)
