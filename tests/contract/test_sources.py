"""Formulas have their place: `Source:` lines in the code and sections of docs/method.md.

A docstring that holds a formula ends in `Source: docs/method.md, 2.2; Karras et al. 2022, eq. 5.`:
first the section of ours that shows the formula and names the function, then whose it is.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "epg"
METHOD = ROOT / "docs" / "method.md"

OURS = re.compile(r"docs/method\.md, (\d+(?:\.\d+)?)")
CITATION = re.compile(r"[A-ZÀ-Þ]\w+(?: et al\.| and [A-ZÀ-Þ]\w+)? (?:19|20)\d\d")
#: In these every public function is an equation, except for what handles shapes and seeds.
EQUATIONS = ("diffusion/", "objectives/")
NO_EQUATIONS = {"diffusion/seeds.py", "diffusion/preconditioning.py per_image"}


@dataclass(frozen=True)
class Section:
    """A numbered section of the page, without its subsections."""

    number: str
    text: str

    @property
    def formulas(self) -> list[str]:
        return re.findall(r"^\$\$(.+?)\$\$$", self.text, re.M | re.S)

    @property
    def names(self) -> set[tuple[str, str]]:
        """(path, name) pairs of its `Code:` paragraphs."""
        found, path = set(), ""
        for paragraph in re.findall(r"^Code: (.+?)(?:\n\n|\Z)", self.text, re.M | re.S):
            for word in re.findall(r"`([^`]+)`", paragraph):
                if word.endswith(".py"):
                    path = word
                else:
                    found.add((path, word))
        return found


@dataclass(frozen=True)
class Documented:
    """A function or class of ours: `name` is `function`, `Class` or `Class.method`."""

    path: str
    name: str
    docstring: str

    @property
    def source(self) -> str | None:
        """What follows `Source:` at the end of the docstring, on one line."""
        text = " ".join(self.docstring.split())
        found = re.search(r"Source: (.+)\.$", text)
        return found[1] if found else None

    def __str__(self) -> str:
        return f"{self.path} {self.name}"


def sections(text: str) -> dict[str, Section]:
    parts = re.split(
        r"^##+ (\d+(?:\.\d+)?)\.? .+$", text.partition("\n## References")[0], flags=re.M
    )
    numbered = zip(parts[1::2], parts[2::2], strict=True)
    return {number: Section(number, body.strip()) for number, body in numbered}


def references(text: str) -> set[str]:
    listed = text.partition("\n## References\n")[2]
    return set(re.findall(r"^- ([^:]+):", listed, re.M))


def documented(path: str, tree: ast.AST, prefix: str = "") -> Iterator[Documented]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{prefix}{node.name}"
            yield Documented(path, name, ast.get_docstring(node) or "")
            yield from documented(path, node, f"{name}.")


def problems(code: list[Documented], page: str) -> Iterator[str]:
    """What breaks the bond between code and page."""
    known, cited, existing = sections(page), references(page), {(d.path, d.name) for d in code}
    for item in code:
        if "Source:" in item.docstring and item.source is None:
            yield f"{item}: Source: ends the docstring, with a full stop"
        outside = " ".join(item.docstring.split())
        if item.source is not None:
            outside = outside.replace(item.source, "")
            yield from _unresolved(item, item.source, known, cited)
        for citation in CITATION.findall(outside):
            yield f"{item}: cites {citation}, which belongs into a Source: line"
    for section in known.values():
        for path, name in sorted(section.names - existing):
            yield f"section {section.number}: there is no {name} in {path or 'a file not named'}"
        if section.formulas and not section.names:
            yield f"section {section.number}: no Code: line says who computes its formula"


def _unresolved(
    item: Documented, source: str, known: dict[str, Section], cited: set[str]
) -> Iterator[str]:
    first, *others = source.split("; ")
    ours = OURS.fullmatch(first)
    if ours is None:
        yield f"{item}: Source: {first!r} is not `docs/method.md, <section>`"
    elif ours[1] not in known:
        yield f"{item}: docs/method.md has no section {ours[1]}"
    else:
        section = known[ours[1]]
        if not section.formulas:
            yield f"{item}: section {section.number} has no formula"
        if (item.path, item.name) not in section.names:
            yield f"{item}: section {section.number} does not name it"
    for other in others:
        citation = CITATION.match(other)
        if citation is None or citation[0] not in cited:
            yield f"{item}: {other!r} is not among the references of docs/method.md"


def our_code() -> list[Documented]:
    return [
        item
        for file in sorted(PACKAGE.rglob("*.py"))
        for item in documented(
            file.relative_to(PACKAGE).as_posix(), ast.parse(file.read_text(encoding="utf-8"))
        )
    ]


def test_every_source_resolves_to_a_formula_and_every_named_function_exists():
    code = our_code()
    assert sum(item.source is not None for item in code) > 30
    assert list(problems(code, METHOD.read_text(encoding="utf-8"))) == []


def test_no_source_line_stands_outside_a_docstring():
    for file in PACKAGE.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        path = file.relative_to(PACKAGE).as_posix()
        held = sum(d.docstring.count("Source:") for d in documented(path, ast.parse(text)))
        assert len(re.findall(r"(?<!-> )\bSource: ", text)) == held, path


def test_every_equation_says_where_it_is_from():
    missing = [
        str(item)
        for item in our_code()
        if item.path.startswith(EQUATIONS)
        and not {item.path, str(item)} & NO_EQUATIONS
        and item.name.islower()  # classes and their methods tell it where they hold one
        and not item.name.startswith("_")
        and "." not in item.name
        and item.source is None
    ]
    assert missing == []


def test_references_are_used():
    page = METHOD.read_text(encoding="utf-8")
    used = page.partition("\n## References")[0] + "".join(d.source or "" for d in our_code())
    used = " ".join(used.split())
    assert [name for name in references(page) if name not in used] == []


def test_formulas_render():
    """GitHub takes `$...$` on one line and `$$...$$` as a paragraph; Markdown would take a
    backslash before punctuation for itself."""
    page = METHOD.read_text(encoding="utf-8")
    for number, section in sections(page).items():
        for block in re.findall(r"^.*\$\$.*$", section.text, re.M):
            assert re.fullmatch(r"\$\$[^$]+\$\$", block), (number, block)
            assert f"\n\n{block}\n\n" in f"\n\n{section.text}\n\n", (number, block)
    text = page.replace("$$", "$")
    for line in text.splitlines():
        assert line.count("$") % 2 == 0, line
    for formula in re.findall(r"\$([^$]+)\$", text):
        assert formula == formula.strip(), formula
        assert formula.count("{") == formula.count("}"), formula
        assert not re.findall(r"\\[^A-Za-z ]", formula), formula
        for command in ("left", "begin"):
            assert f"\\{command} " not in formula, formula


PAGE = """# Page

## 1. Part

### 1.1 One

$$a = b$$

Code: `part/one.py` `one`, `Two.three`.

### 1.2 Words

No formula, no code.

## References

- Karras et al. 2022: a title.
"""
ONE = '"""Return a.\n\n    Source: docs/method.md, {}.\n    """'
THREE = "class Two:\n    def three(self): ...\n"


def found(docstring: str, page: str = PAGE, more: str = THREE) -> list[str]:
    tree = ast.parse(f"def one():\n    {docstring}\n\n\n{more}")
    return list(problems(list(documented("part/one.py", tree)), page))


@pytest.mark.parametrize(
    "source", ["1.1", "1.1; Karras et al. 2022", "1.1; Karras et al. 2022, eq. 5"]
)
def test_a_good_source_passes(source: str):
    assert found(ONE.format(source)) == []


@pytest.mark.parametrize(
    ("docstring", "fragment"),
    [
        (ONE.format("3.4"), "no section 3.4"),
        (ONE.format("1.2"), "has no formula"),
        (ONE.format("1.1; Nobody 2020"), "not among the references"),
        ('"""Return a.\n\n    Source: Karras et al. 2022.\n    """', "is not `docs/method.md"),
        ('"""Source: docs/method.md, 1.1.\n\n    And more.\n    """', "is not `docs/method.md"),
        ('"""Return a. Source: docs/method.md, 1.1"""', "full stop"),
        ('"""Return a, as Karras et al. 2022 do."""', "belongs into a Source: line"),
    ],
)
def test_a_bad_source_is_caught(docstring: str, fragment: str):
    assert any(fragment in problem for problem in found(docstring))


def test_a_formula_without_its_function_is_caught():
    source = ONE.format("1.1")
    renamed = found(source.replace("def one", "def other"), more="")
    assert renamed == ["section 1.1: there is no Two.three in part/one.py"]
    unnamed = found(source, PAGE.replace("`one`, ", ""))
    assert unnamed == ["part/one.py one: section 1.1 does not name it"]
    nobody = found('"""Return a."""', PAGE.replace("Code: `part/one.py` `one`, `Two.three`.", ""))
    assert nobody == ["section 1.1: no Code: line says who computes its formula"]
