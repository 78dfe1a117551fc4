"""`epg run` refuses what cannot work before anything long starts: one line, exit 2."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from tests.toys.command import PATIENCE, epg, start_epg, wait_for, wait_until_none

RUN = ("run", "--recipe", "toy", "--no-consistency")


def refused(shown, *words):
    """Exit 2, one line on stderr with all the words, and no stage begun."""
    assert shown.returncode == 2, shown.stdout + shown.stderr
    assert "started" not in shown.stdout
    (line,) = shown.stderr.splitlines()
    assert line.startswith("epg: error: ")
    for word in words:
        assert word in line, line


REFUSALS = [
    (("--recipe", "digit"), ("unknown recipe 'digit'", "toy")),
    (("--recipe", "toy", "--set", "pretrain.stepps=3"), ("'pretrain.stepps'", "'steps'")),
    (("--recipe", "toy", "--set", "pretrain.steps=many"), ("pretrain.steps is 'many'",)),
    (("--recipe", "toy", "--set", "pretrain.steps"), ("key=value",)),
    (("--recipe", "toy", "--run-name", "registry"), ("registry",)),
    (("--recipe", "toy", "--run-name", "../up"), ("'../up'",)),
    (("--recipe", "toy", "--from", "pretrian"), ("did you mean 'pretrain'",)),
    (("--recipe", "toy", "--no-denoising", "--no-consistency"), ("nothing to train",)),
    (("--recipe", "toy", "--data", "folder:absent"), ("absent",)),
    (("--recipe", "toy", "--store", "ftp://somewhere"), ("ftp",)),
    (
        ("--recipe", "toy", "--set", "evaluate.networks=[inception]"),
        ("FID", "`epg weights inception`"),
    ),
    (("--recipe", "toy", "--inception-weights", "none.pth"), ("none.pth",)),
    (("--recipe", "toy", "--metrics-port", "http"), ("--metrics-port",)),
    (("--recipe", "toy", "--colour"), ("--colour",)),
    ((), ("--recipe",)),
]


@pytest.mark.parametrize(("arguments", "words"), REFUSALS)
def test_refused_at_once(tmp_path, arguments, words):
    refused(epg(tmp_path, "run", *arguments), *words)
    assert not (tmp_path / "runs" / "toy" / "stages").exists()


def test_a_bound_on_an_unknown_metric_is_found_before_training(tmp_path):
    bound = "gate.denoising.svc_agrement={min: 0.5}"
    shown = epg(tmp_path, "run", "--recipe", "smoke", "--set", bound, toys=False)
    refused(shown, "svc_agreement")


def images(folder, *names, num=6):
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(num):
            Image.new("L", (8, 8), number).save(folder / name / f"{number}.png")


def test_too_few_held_out_images_are_known_before_training(tmp_path):
    images(tmp_path / "d", "cat", "dog")
    shown = epg(tmp_path, "run", "--recipe", "smoke", "--data", "folder:d", toys=False)
    refused(shown, "evaluate.neighbours is 3", "has 2)", "--set evaluate.neighbours=1")


def test_more_text_than_a_step_can_be_given(tmp_path):
    shown = epg(tmp_path, "show-recipe", "smoke", toys=False)
    text = re.sub("description: .*", "description: " + "x" * 150_000, shown.stdout)
    (tmp_path / "big.yaml").write_text(text)
    refused(epg(tmp_path, "run", "--recipe", "big.yaml", toys=False), "at most 100,000", "shorten")


def test_names_that_no_step_can_be_given(tmp_path):
    place = tmp_path / os.fsdecode(b"r\xe9p")
    images(place / "d", "cat", "dog", num=20)
    shown = epg(tmp_path, "run", "--recipe", "smoke", "--data", f"folder:{place}/d", toys=False)
    refused(shown, r"/r\xe9p/d", "not UTF-8", "ln -s")
    refused(epg(place, *RUN), "not UTF-8")


def test_own_module_in_the_folder_and_a_terminal_without_utf8(tmp_path):
    (tmp_path / "random.py").write_text("raise SystemExit('the user's own')")
    ran = epg(tmp_path, *RUN, PYTHONIOENCODING="ascii", LC_ALL="C")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.isascii()


@pytest.mark.slow
def test_a_locale_that_is_not_utf8(tmp_path):
    """A Latin-1 locale as old clusters have it, made here since few systems carry it."""
    name = "en_US.ISO-8859-1"
    localedef = shutil.which("localedef")
    if localedef is None:
        pytest.skip("needs localedef")
    words = [localedef, "-i", "en_US", "-f", "ISO-8859-1", str(tmp_path / name)]
    if subprocess.run(words, capture_output=True, check=False).returncode not in (0, 1):
        pytest.skip("localedef has no sources of locales here")  # 1: warnings only
    there = {"LOCPATH": str(tmp_path), "LC_ALL": name}
    asked = [sys.executable, "-c", "import locale; print(locale.getencoding())"]
    told = subprocess.run(asked, env=os.environ | there, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "ISO-8859-1"
    # What is printed is another matter (the test above).
    ran = epg(tmp_path, *RUN, LOCPATH=str(tmp_path), LC_ALL=name, PYTHONIOENCODING="utf-8")
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_an_output_that_is_no_folder(tmp_path):
    (tmp_path / "runs").write_text("a file")
    refused(epg(tmp_path, *RUN), "runs")


@pytest.mark.slow
def test_a_second_run_of_the_same_name_at_the_same_time(tmp_path):
    first = start_epg(tmp_path, *RUN, TOY_SLEEP="pretrain:900")
    try:
        wait_for(tmp_path / "runs" / "toy" / "pretrain.pid")
        refused(epg(tmp_path, *RUN), "in use", "another run name")
        assert first.poll() is None, "the first run was disturbed"
    finally:
        first.terminate()
        first.communicate(timeout=PATIENCE)
    assert wait_until_none(str(tmp_path)) == []


@pytest.mark.slow
def test_a_run_ends_well_is_reused_and_begun_again_from_a_stage(tmp_path):
    first = epg(tmp_path, *RUN)
    assert first.returncode == 0, first.stderr
    assert "try next: epg sample --model digits-denoising:1" in first.stdout
    assert not any((tmp_path / "runs" / "toy" / "kfp").glob("tmp/*"))

    changed = epg(tmp_path, *RUN, "--set", "pretrain.steps=1")
    refused(changed, "pretrain", "2 -> 1", "--run-name")

    again = epg(tmp_path, *RUN, "--from", "evaluate-denoising")
    assert again.returncode == 0, again.stderr
    assert "finetune-denoising: already done" in again.stdout
    assert "evaluate-denoising: done" in again.stdout
    assert "register-denoising: done" in again.stdout


@pytest.mark.slow
def test_a_model_that_fails_its_gate_is_not_registered_and_the_run_is_well(tmp_path):
    shown = epg(tmp_path, *RUN, TOY_GATE_FAILS="denoising")
    assert shown.returncode == 0, shown.stderr
    assert "denoising: not registered: svc_agreement is 0.2, below 0.85" in shown.stdout
    assert "register-denoising: skipped" in shown.stdout


@pytest.mark.slow
def test_a_stage_that_names_its_cause(tmp_path):
    shown = epg(tmp_path, *RUN, TOY_FAIL="pretrain:user")
    assert shown.returncode == 2
    assert shown.stderr == "epg: error: pretrain: pretrain was told to fail: tell it otherwise\n"
    assert f"log: {tmp_path / 'runs' / 'toy' / 'run.log'}" in shown.stdout
    assert "report: " in shown.stdout  # the exit handler ran
    assert "finetune-denoising: skipped" in shown.stdout


@pytest.mark.slow
def test_a_stage_that_meets_a_bug(tmp_path):
    shown = epg(tmp_path, *RUN, TOY_FAIL="pretrain:crash")
    assert shown.returncode == 1
    assert shown.stderr == "epg: error: pretrain: RuntimeError: a bug, say\n"
    assert "Traceback" in (tmp_path / "runs" / "toy" / "run.log").read_text()
