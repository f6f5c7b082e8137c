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


@click.command(short_help="Tell how far this machine's times of endpoints can be trusted.")
@click.option("--streams", metavar="INT,...", help="Requests in flight  [1,16,64,... until the error is too large]")
@click.option("--rate", type=click.FloatRange(0.1), default=50.0, show_default=True, help="Tokens a second and stream.")
@json_option
def calibrate(streams: str | None, rate: float, as_json: bool) -> None:
    """Measure a server on this machine that stamps its own sends, and say how far off this client is at each load.

    What is found is kept, and stands beside the results of this machine.
    """
    from hpcbench.errors import UsageError
    from hpcbench.inference.calibrate import LIMIT, STEPS, Error
    from hpcbench.inference.calibrate import calibrate as measure

    words = (streams or ",".join(map(str, STEPS))).split(",")
    if not all(word.strip().isdigit() and 0 < int(word) <= 10_000 for word in words):
        raise UsageError(f"--streams: {streams!r} is not a list of whole numbers such as 16,256")
    found: list[Error] = []
    if not as_json:
        click.echo("|measured - true|, mean / 99th percentile, in ms")
        click.echo("streams  tokens/s  to first token        latency         gap  client's CPU")
    for error in measure([int(word) for word in words], rate):
        found.append(error)
        if not as_json:
            pairs = [
                f"{1000 * mean:6.2f} / {1000 * most:5.2f}"
                for mean, most in (
                    (error.ttft_mean, error.ttft_p99),
                    (error.latency_mean, error.latency_p99),
                    (error.gap_mean, error.gap_p99),
                )
            ]
            click.echo(f"{error.streams:7}  {error.tokens_per_second:8.0f}  {'  '.join(pairs)}  {error.cpu:6.0%}")
        if streams is None and not any(each.small for each in found[-2:]) and len(found) > 1:
            break
    trusted = [each for each in found if each.small]
    if as_json:
        from dataclasses import asdict

        emit("calibrate", {"loads": [{**asdict(each), "small": each.small} for each in found], "limit": LIMIT})
    elif trusted:
        most = max(trusted, key=lambda each: each.tokens_per_second)
        click.echo(
            f"below 1 ms (99th percentile) up to {most.streams} streams and {most.tokens_per_second:.0f} tokens/s"
        )
    else:
        click.echo("at none of these loads is the error below 1 ms (99th percentile): is the machine busy?")
