"""The command line: thin commands over the stages, nothing heavy imported before it is needed."""

from __future__ import annotations

from typing import Any

import click

from hpcbench import __version__
from hpcbench.cli.lists import benchmarks, formats, sites
from hpcbench.cli.logs import parse, report
from hpcbench.cli.reach import calibrate, check, login, smoke
from hpcbench.cli.runs import cancel, clean, fetch, resume, status, wait
from hpcbench.cli.sweep import submit
from hpcbench.errors import HpcbenchError, UsageError

# Not the docstring of `main`: one with a backslash in it has to be raw, where \b is two letters and not the backspace
# that tells click to keep the lines after it as they are. They are flush left, else the longest would not fit.
_HELP = """From a sweep to run to a report that can be defended.

\b
hpcbench submit --site local --benchmark gpt2 --threads 1,2 --repeat 3 --wait
hpcbench submit --site cerebras --batch 256,512,1024,2048
hpcbench parse logs/
hpcbench report logs/
"""


class _Group(click.Group):
    """Turns hpcbench's own errors into one line and their exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except HpcbenchError as error:
            if ctx.params.get("debug"):
                raise
            click.echo(f"hpcbench: {error}", err=True)
            if error.next_step:
                click.echo(error.next_step, err=True)
            ctx.exit(error.exit_code)
        except click.exceptions.NoArgsIsHelpError:
            raise
        except click.UsageError as error:  # click's own form takes four lines
            command = error.ctx.command_path if error.ctx else "hpcbench"
            message = " ".join(error.format_message().split())
            click.echo(f"hpcbench: {message} See {command} --help.", err=True)
            ctx.exit(error.exit_code)
        except (click.exceptions.Exit, click.Abort, click.ClickException, KeyboardInterrupt, BrokenPipeError):
            raise
        except Exception as error:  # a mistake of hpcbench's own is one line too
            if ctx.params.get("debug"):
                raise
            kind = type(error).__name__
            click.echo(f"hpcbench: unexpected {kind}: {error} (hpcbench --debug ... shows where)", err=True)
            ctx.exit(1)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from hpcbench.errors import nearest

        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise UsageError(f"unknown command {args[0]!r}{nearest(args[0], self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)


@click.group(cls=_Group, help=_HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="hpcbench")
@click.option("--debug", is_flag=True, help="Show where in hpcbench an error comes from.")
def main(debug: bool) -> None:
    """Run the command line."""


for _command in (
    submit, status, wait, cancel, resume, fetch, clean, check, smoke, calibrate, login, parse, report,
    sites, benchmarks, formats,
):  # fmt: skip
    main.add_command(_command)
