"""Every help text, as a user of an 80-column terminal reads it."""

import pytest
import typer.core
import typer.main

from epg.cli.app import app
from tests.toys.command import epg

COMMAND = typer.main.get_command(app)
assert isinstance(COMMAND, typer.core.TyperGroup)


@pytest.mark.parametrize("command", ["", *sorted(COMMAND.commands)])
def test_help(command, golden, tmp_path):
    shown = epg(tmp_path, *command.split(), "--help", toys=False, NO_COLOR="1")
    assert shown.returncode == 0
    assert shown.stderr == ""
    golden(f"help/{command or 'epg'}.txt", shown.stdout)
