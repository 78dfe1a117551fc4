"""The command line's own promises: examples that parse, errors in a line, a quick start."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest
import typer.core
import typer.main

from epg import __version__
from epg.cli.app import app
from epg.cli.guarded import guarded
from epg.errors import UserError
from epg.stages.catalog import STAGES
from tests.toys.command import environment, epg

COMMAND = typer.main.get_command(app)
assert isinstance(COMMAND, typer.core.TyperGroup)
COMMANDS = COMMAND.commands


def examples():
    for name, command in [("epg", COMMAND), *COMMANDS.items()]:
        for line in (command.help or "").splitlines():
            if line.strip().startswith("epg "):
                yield pytest.param(line.strip(), id=f"{name}: {line.strip()}")


def test_every_stage_is_a_command():
    stages = {re.sub("-(denoising|consistency)$", "", stage) for stage in STAGES}
    assert stages <= set(COMMANDS)


def test_every_command_has_an_example_but_the_plainest():
    without = [n for n, c in COMMANDS.items() if f"epg {n}" not in (c.help or "")]
    assert without == ["recipes"]


@pytest.mark.parametrize("line", list(examples()))
def test_examples_parse(line):
    words = shlex.split(line.split(" > ")[0])[1:]
    command = COMMANDS[words[0]]
    if isinstance(command, typer.core.TyperGroup):
        words = words[1:]
        command = command.commands[words[0]]
    with command.make_context(words[0], words[1:]) as context:
        assert context.params


def test_version(tmp_path):
    shown = epg(tmp_path, "--version", toys=False)
    assert (shown.returncode, shown.stdout) == (0, f"epg {__version__}\n")


def test_recipes_are_listed_and_shown_and_read_back(tmp_path):
    listed = epg(tmp_path, "recipes", toys=False)
    assert re.search(r"^digits +\S", listed.stdout, re.M)
    shown = epg(tmp_path, "show-recipe", "smoke", "--set", "pretrain.steps=7", toys=False)
    (tmp_path / "mine.yaml").write_text(shown.stdout)
    again = epg(tmp_path, "show-recipe", "mine.yaml", toys=False)
    assert again.stdout == shown.stdout
    assert "steps: 7" in shown.stdout


def test_gflops_need_no_run(tmp_path):
    shown = epg(tmp_path, "count-gflops", "--recipe", "smoke", toys=False)
    assert shown.returncode == 0, shown.stderr
    assert "Parameters" in shown.stdout
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["gate", "--recipe", "smoke", "--objective", "diffusion"], "denoising or consistency"),
        (["evaluate", "--recipe", "smoke", "--objective", "denoising"], "not done"),
        (["evaluate", "--images", ".", "--objective", "denoising"], "leave it out for given"),
        (["evaluate", "--images", ".", "--recipe", "smoke", "--networks", "a"], "without a recipe"),
        (["show-recipe", "nothing"], "unknown recipe"),
        (["sample", "--model", "nothing", "--out", "a.png"], "nothing"),
        (["sample", "--model", "nothing", "--out", "a.gif"], "a.gif"),
        (["fly"], "fly"),
    ],
)
def test_mistakes_are_one_line(tmp_path, arguments, word):
    shown = epg(tmp_path, *arguments, toys=False)
    assert shown.returncode == 2, shown.stderr
    (line,) = shown.stderr.splitlines()
    assert line.startswith("epg: error: ")
    assert word in line


def test_debug_shows_the_traceback_wherever_it_stands(tmp_path):
    shown = epg(tmp_path, "show-recipe", "nothing", "--debug", toys=False)
    assert shown.returncode == 2
    assert "Traceback" in shown.stderr
    assert shown.stderr.splitlines()[-1].startswith("epg: error: ")


def failing(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (UserError("mend this"), 2, "epg: error: mend this\n"),
        (OSError(28, "No space left on device", "x.tar"), 2, "no space left on the disk of x.tar"),
        (OSError(13, "Permission denied"), 1, "PermissionError"),
        (KeyError("k"), 1, "epg: error: KeyError: 'k' (run again with --debug)\n"),
        (KeyboardInterrupt(), 130, "epg: error: stopped\n"),
    ],
)
def test_errors_become_a_line_and_a_code(capsys, error, code, text):
    assert guarded(failing(error), debug=False) == code
    shown = capsys.readouterr()
    assert text in shown.err
    assert "Traceback" not in shown.err
    assert shown.err.count("\n") == 1


def test_nothing_heavy_is_loaded_for_help():
    program = (
        "import sys; from epg.cli.app import app\n"
        "try: app(['run', '--help'], standalone_mode=False)\n"
        "finally: print([m for m in ('torch', 'kfp', 'numpy', 'yaml') if m in sys.modules])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(toys=False),
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.splitlines()[-1] == "[]"


def test_a_reader_that_leaves_is_no_error(tmp_path):
    line = f"{sys.executable} -m epg show-recipe smoke | head -1"
    shown = subprocess.run(
        ["bash", "-c", line],
        env=environment(toys=False),
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout == "name: smoke\n"
    assert shown.stderr == ""
