"""The commands about one site: check, smoke and login."""

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


@click.command(short_help="Send one tiny chat request to a site's endpoint.")
@click.argument("site")
@json_option
def smoke(site: str, as_json: bool) -> None:
    """Ask the model of SITE for one word; where that fails, say what is wrong and how to mend it."""
    from hpcbench.inference.smoke import SmokeError
    from hpcbench.inference.smoke import smoke as ask
    from hpcbench.metrics import quantity

    try:
        reply = ask(site)
    except SmokeError as error:
        if as_json:
            emit("smoke", {"site": site, "problem": error.problem, "said": error.said, "mend": error.mend or None})
        raise
    counts = {"input_tokens": reply.input_tokens, "output_tokens": reply.output_tokens}
    if as_json:
        told = {"asked": reply.asked, "model": reply.model, "reply": reply.text, "latency": reply.latency, **counts}
        emit("smoke", {"site": site, "problem": None, **told})
        return
    renamed = "" if reply.model == reply.asked else f", which {reply.asked} is called there"
    tokens = ", ".join(f"{'unknown' if n is None else n} {name.removesuffix('_tokens')}" for name, n in counts.items())
    for label, text in (
        ("site", site),
        ("model", reply.model + renamed),
        ("reply", reply.text),
        ("latency", quantity(reply.latency, "s")),
        ("tokens", tokens),
    ):
        click.echo(f"{label:<7}  {text}")


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
