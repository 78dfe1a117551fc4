"""What lies in the repository is fit to be given away, and its documents tell the truth."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
MAKEFILE = ROOT / "Makefile"
RECIPES = ROOT / "src" / "epg" / "recipes"

# In pieces, so that this file does not contain what it forbids.
PACKAGE_INDEX_HOSTS = [
    ".".join(pieces)
    for pieces in [
        ("pypi", "org"),
        ("pypi", "python", "org"),
        ("pythonhosted", "org"),
        ("pypi", "nvidia", "com"),
        ("download", "pytorch", "org"),
        ("conda", "anaconda", "org"),
        ("registry", "npmjs", "org"),
    ]
]
MACHINE_PATHS = [
    re.compile("/" + "root" + r"/[.\w]"),
    re.compile("/" + "work" + r"/(main|shared|\.)"),
    re.compile("/" + r"Users/\w"),
    re.compile(r"\." + r"pyenv\b"),
]


def repository_files() -> list[Path]:
    """Tracked files and those about to be; what .gitignore names stays out."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    paths = (ROOT / name for name in listing.stdout.split("\0") if name)
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def repository_texts() -> Iterator[tuple[str, str]]:
    for path in repository_files():
        content = path.read_bytes()
        if b"\0" not in content[:8192]:
            yield path.relative_to(ROOT).as_posix(), content.decode("utf-8", errors="replace")


def test_no_package_index_host():
    found = [
        f"{name}: {host}"
        for name, text in repository_texts()
        for host in PACKAGE_INDEX_HOSTS
        if host in text.lower()
    ]
    assert found == []


def test_no_path_of_one_machine():
    forbidden = list(MACHINE_PATHS)
    if len(ROOT.parts) > 3:  # a short one, as /app in an image, is an ordinary word
        forbidden.append(re.compile(re.escape(str(ROOT)) + r"\b"))
    found = [
        f"{name}: {match.group()}"
        for name, text in repository_texts()
        for pattern in forbidden
        if (match := pattern.search(text))
    ]
    assert found == []


def test_no_big_file():
    big = [p.name for p in repository_files() if p.stat().st_size > 2_000_000]
    assert big == []


def test_lock_file_is_pinned_and_hashed():
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    requirements = re.split(r"\n(?=\S)", lock)
    pinned = [r for r in requirements if not r.startswith("#")]
    assert len(pinned) > 50
    for requirement in pinned:
        assert re.match(r"[A-Za-z0-9._-]+==\S+", requirement), requirement
        assert "--hash=sha256:" in requirement, requirement
    assert "://" not in lock


# --- The documents -------------------------------------------------------------------------


def code_in(document: str) -> Iterator[str]:
    """Lines of fenced blocks (continued lines joined) and spans of inline code."""
    fence = re.compile(r"^ *```.*?\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
    for block in fence.findall(document):
        yield from block.replace("\\\n", " ").splitlines()
    yield from re.findall(r"`([^`\n]+)`", fence.sub("", document))


def commands_in(document: str, program: str) -> Iterator[list[str]]:
    """`epg run --recipe digits` → [["run", "--recipe", "digits"]], wherever it is typed."""
    typed = re.compile(rf"^\s*(?:\$ )?(?:[A-Z_]+=\S+ )*(?:\S*/bin/)?{program} ([a-z-].*)$")
    for line in code_in(document):
        if match := typed.match(line):
            yield shlex.split(match.group(1), comments=True)


def documents() -> list[Path]:
    pages = [
        *sorted((ROOT / "docs").rglob("*.md")),
        ROOT / "images/README.md",
        ROOT / "k8s/README.md",
    ]
    return [README, ROOT / "CONTRIBUTING.md", *pages]


@pytest.fixture(params=documents(), ids=lambda path: path.relative_to(ROOT).as_posix())
def document(request: pytest.FixtureRequest) -> str:
    return request.param.read_text(encoding="utf-8")


def test_commands_are_found_in_a_document():
    text = (
        "Type `make demo`, or\n\n```console\n"
        "$ EPG_X=1 epg run --recipe digits \\\n    --set a.b=c  # go\n"
        "make: nothing\n  epg sample --num 4\n```\n"
    )
    assert list(commands_in(text, "make")) == [["demo"]]
    assert list(commands_in(text, "epg")) == [
        ["run", "--recipe", "digits", "--set", "a.b=c"],
        ["sample", "--num", "4"],
    ]


def test_make_targets_exist(document):
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", MAKEFILE.read_text(encoding="utf-8"), re.M))
    for words in commands_in(document, "make"):
        for target in words:
            if re.fullmatch(r"[a-z][a-z-]*", target):
                assert target in targets, f"make {' '.join(words)}"


def test_recipes_exist(document):
    named = re.findall(r"(?:--recipe[ =]|show-recipe |\brecipe=)([a-z][\w-]*)(?![\w./-])", document)
    for name in named:
        assert (RECIPES / f"{name}.yaml").exists(), f"recipe {name}"


def test_epg_commands_exist(document):
    import typer

    module = importlib.import_module("epg.cli.app")
    (application,) = [v for v in vars(module).values() if isinstance(v, typer.Typer)][:1]
    root = typer.main.get_command(application)
    for words in commands_in(document, "epg"):
        line = f"epg {' '.join(words)}"
        command = root
        for word in words:
            subcommands = getattr(command, "commands", {})
            if word.startswith("-") or not subcommands:
                break
            assert word in subcommands, f"{line}: no command {word}"
            command = subcommands[word]
        known = {"--help"} | {o for p in command.params for o in [*p.opts, *p.secondary_opts]}
        for word in words:
            if word.startswith("--"):
                assert word.split("=")[0] in known, f"{line}: no option {word}"


def test_makefile_targets_explain_themselves():
    text = MAKEFILE.read_text(encoding="utf-8")
    targets = re.search(r"^\.PHONY: (.*)$", text, re.M)
    assert targets is not None
    for target in targets[1].split():
        assert re.search(rf"^{target}:.*## \S", text, re.M), target
