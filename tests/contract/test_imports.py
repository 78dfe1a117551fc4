"""The rules of the house (docs/architecture.md), held over the syntax trees of all our files.

Nothing is imported here: a file that breaks a rule is found even where it could not run.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from epg.stages.catalog import STAGES as CATALOG

ROOT = Path(__file__).parents[2]

LEAVES = {"config", "store", "telemetry", "diffusion", "model"}
ASSEMBLED = LEAVES | {"data", "objectives"}
RUNS = {"config", "store", "telemetry"}
STAGES = ASSEMBLED | {"runs", "training", "evaluation", "registry", "report"}
ABOVE = STAGES | {"stages"}

# Leaves that all may import, as they may `epg` itself.
OPEN = {
    "",
    "children",
    "documents",
    "errors",
    "guard",
    "machine",
    "measures",
    "numbers",
    "protocol",
    "published",
    "text",
}

# Which of our packages each package may import besides those.
ALLOWED: dict[str, set[str]] = {
    **{leaf: set() for leaf in OPEN - {""}},
    "recipes": set(),
    **{leaf: set() for leaf in LEAVES},
    "diffusion": {"config"},
    "model": {"config"},
    "objectives": {"diffusion"},
    "data": {"store"},
    "runs": RUNS,
    "training": ASSEMBLED,
    "evaluation": ASSEMBLED,
    "registry": {"store", "telemetry", "config"},
    "report": RUNS | {"runs"},
    "stages": STAGES,
    "cluster": ABOVE | {"pipelines", "components"},
    "console": ABOVE,  # what is drawn
    "session": ABOVE | {"cluster", "console"},
    "cli": ABOVE | {"cluster", "console", "session"},
    "__main__": {"cli"},
    "components": {"stages"},
    "pipelines": {"components", "stages"},
}
ORCHESTRATION = {"kfp", "kfp_server_api", "kubernetes"}  # only `cluster` may import these
HEAVY = ORCHESTRATION | {"torch", "torchvision", "timm", "sklearn", "scipy", "matplotlib"}
LIGHT_FILES = (
    "epg/cli/",
    "epg/session/",
    "epg/console/",
    "epg/runs/",
    "epg/stages/",
    "epg/config/",
    "epg/store/",
)


@dataclass(frozen=True)
class Import:
    """One imported module, by its full name, and where the statement stands."""

    module: str
    line: int
    at_top: bool  # runs when the file is imported


@dataclass
class Source:
    """One of our files: `path` is relative to src/ or to the root, e.g. `epg/store/base.py`."""

    path: str
    tree: ast.Module
    imports: list[Import] = field(default_factory=list)

    @property
    def module(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def package(self) -> str:
        return package_of(self.module)


def package_of(module: str) -> str:
    """`epg.store.base` → `store`; `components.shard.component` → `components`; `epg` → ``."""
    parts = module.split(".")
    if parts[0] == "epg":
        return parts[1] if len(parts) > 1 else ""
    return parts[0]


def find_imports(path: str, tree: ast.Module) -> Iterator[Import]:
    is_package = path.endswith("/__init__.py")
    here = path.removesuffix(".py").removesuffix("/__init__").split("/")

    def visit(node: ast.AST, at_top: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, at_top)
        elif isinstance(node, ast.ImportFrom):
            base = node.module.split(".") if node.module else []
            if node.level:
                up = node.level - 1 if is_package else node.level
                base = here[: len(here) - up] + base
            for alias in node.names:  # the name may be a module of its own
                yield Import(".".join([*base, alias.name]), node.lineno, at_top)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for statement in [*node.body, *node.orelse]:  # for types only: never runs
                yield from visit(statement, False)
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                yield from visit(child, at_top and not inside)

    yield from visit(tree, True)


def parse(files: dict[str, str]) -> list[Source]:
    sources = []
    for path, text in sorted(files.items()):
        tree = ast.parse(text, filename=path)
        sources.append(Source(path, tree, list(find_imports(path, tree))))
    return sources


def is_ours(module: str) -> bool:
    return module.split(".")[0] in {"epg", "components", "pipelines"}


# --- The rules: each takes all sources and yields what breaks it ---------------------------


def arrows(sources: list[Source]) -> Iterator[str]:
    """Leaves at the bottom, stages on top, no arrow back up."""
    packages = {source.package for source in sources}
    for source in sources:
        if source.package and source.package not in ALLOWED:
            yield f"{source.path}: package {source.package} has no place in ALLOWED"
            continue
        for found in source.imports:
            target = package_of(found.module)
            if not is_ours(found.module) or target in {*OPEN, source.package}:
                continue
            if found.module.count(".") == 1 and target not in {*ALLOWED, *packages}:
                continue  # `from epg import __version__`
            if target not in ALLOWED.get(source.package, set()):
                yield f"{source.path}:{found.line}: {source.package or 'epg'} imports {target}"


def no_circle(sources: list[Source]) -> Iterator[str]:
    """No file imports, through others or inside a function, a file that imports it."""
    modules = {source.module for source in sources}

    def imported(found: Import) -> str:
        parts = found.module.split(".")
        names = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
        return next((name for name in names if name in modules), "")

    graph = {source.module: {imported(found) for found in source.imports} for source in sources}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield " is imported by ".join(error.args[1])


def stages_apart(sources: list[Source]) -> Iterator[str]:
    """No stage imports another stage: what two of them need lies below both."""
    of_a_stage = {f"epg.stages.{stage.step.replace('-', '_')}" for stage in CATALOG.values()}
    for source in sources:
        if source.module in of_a_stage:
            for found in source.imports:
                for module in (found.module, found.module.rpartition(".")[0]):
                    if module in of_a_stage - {source.module}:
                        yield f"{source.path}:{found.line}: imports the stage {module}"


def cluster_alone(sources: list[Source]) -> Iterator[str]:
    """Inside src/epg only `cluster` knows kubernetes and kfp."""
    for source in sources:
        if source.path.startswith("epg/") and source.package != "cluster":
            for found in source.imports:
                if found.module.split(".")[0] in ORCHESTRATION:
                    yield f"{source.path}:{found.line}: imports {found.module}"


def torch_and_kfp_apart(sources: list[Source]) -> Iterator[str]:
    """torch and kfp never meet in one file; orchestration knows nothing of tensors."""
    for source in sources:
        roots = {found.module.split(".")[0] for found in source.imports}
        tensors = roots & {"torch", "torchvision", "timm"}
        orchestrates = source.package in {"cluster", "components", "pipelines"}
        if tensors and (orchestrates or roots & {"kfp", "kubernetes"}):
            yield f"{source.path}: {', '.join(sorted(tensors))} where the pipeline is made"


def light_at_the_top(sources: list[Source]) -> Iterator[str]:
    """Importing the command line, a stage, config or store loads nothing heavy, not even through
    another of our files."""
    by_module = {source.module: source for source in sources}

    def loaded(module: str) -> Iterator[Source]:
        """Our files that run when the module is imported, its packages' __init__ first."""
        parts = module.split(".")
        for length in range(1, len(parts) + 1):
            if found := by_module.get(".".join(parts[:length])):
                yield found

    for source in sources:
        if not source.path.startswith(LIGHT_FILES):
            continue
        waiting, seen = [*loaded(source.module)], set()
        while waiting:
            current = waiting.pop()
            if current.path in seen:
                continue
            seen.add(current.path)
            for found in current.imports:
                if not found.at_top:
                    continue
                if found.module.split(".")[0] in HEAVY:
                    yield f"{source.path}: loads {found.module} ({current.path}:{found.line})"
                waiting.extend(loaded(found.module))


def thin_components(sources: list[Source]) -> Iterator[str]:
    """A component's module imports kfp and the standard library; its body is an import and a
    call."""
    for source in sources:
        if source.package != "components" or not source.path.endswith("/component.py"):
            continue
        for found in source.imports:
            root = found.module.split(".")[0]
            if found.at_top and root not in {"kfp", "components", *sys.stdlib_module_names}:
                yield f"{source.path}:{found.line}: imports {found.module} at the top"
        functions = [n for n in ast.walk(source.tree) if isinstance(n, ast.FunctionDef)]
        if not functions:
            yield f"{source.path}: no component in it"
        for function in functions:
            body = function.body[1:] if ast.get_docstring(function) else function.body
            if not ast.get_docstring(function):
                yield f"{source.path}:{function.lineno}: {function.name} has no docstring"
            calls = sum(isinstance(n, ast.Call) for statement in body for n in ast.walk(statement))
            shape = [type(statement) for statement in body]
            if shape not in ([ast.ImportFrom, ast.Expr], [ast.ImportFrom, ast.Return]) or (
                calls != 1
            ):
                yield f"{source.path}:{function.lineno}: {function.name} is more than a call"


def no_utils(sources: list[Source]) -> Iterator[str]:
    """Every file has a noun of its own for a name."""
    for source in sources:
        if {"utils", "util", "helpers", "misc"} & set(source.module.split(".")):
            yield f"{source.path}: says nothing of what is in it"


RULES = [
    arrows,
    stages_apart,
    no_circle,
    cluster_alone,
    torch_and_kfp_apart,
    light_at_the_top,
    thin_components,
    no_utils,
]


def our_files() -> dict[str, str]:
    files = {}
    for base, folder in [("src", "src/epg"), (".", "components"), (".", "pipelines")]:
        for path in sorted((ROOT / folder).rglob("*.py")):
            files[path.relative_to(ROOT / base).as_posix()] = path.read_text(encoding="utf-8")
    return files


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_holds(rule):
    sources = parse(our_files())
    assert any(source.path == "epg/__init__.py" for source in sources), "src/epg was not found"
    assert list(rule(sources)) == []


GOOD_COMPONENT = '''
from kfp import dsl

@dsl.component
def gate(metrics: dsl.Input[dsl.Metrics], recipe: str):
    """Pass or fail."""
    from epg.stages.gate import gate_component

    gate_component(metrics, recipe)
'''


def component(body: str, top: str = "from kfp import dsl") -> dict[str, str]:
    text = f'{top}\n\n@dsl.component\ndef gate(a: int):\n    """Gate."""\n'
    return {"components/gate/component.py": text + "".join(f"    {s}\n" for s in body.split("\n"))}


IMPORT = "from epg.stages.gate import gate_component"

VIOLATIONS = [
    (arrows, {"epg/store/base.py": "from epg.config.recipe import Recipe"}),
    (arrows, {"epg/diffusion/noise.py": "def f():\n    import epg.model.encoder"}),
    (arrows, {"epg/model/encoder.py": "from ..training import loop"}),
    (arrows, {"epg/data/shards.py": "from epg import telemetry"}),
    (arrows, {"epg/evaluation/fid.py": "from epg.training.loop import train"}),
    (arrows, {"epg/report/page.py": "from epg.evaluation.fid import frechet_distance"}),
    (arrows, {"epg/training/loop.py": "from epg.stages.pretrain import pretrain"}),
    (arrows, {"epg/stages/shard.py": "from epg.cluster import submit"}),
    (arrows, {"epg/objectives/loss.py": "if TYPE_CHECKING:\n    from epg.model import E"}),
    (arrows, {"epg/__init__.py": "from epg.config import load_recipe"}),
    (arrows, {"epg/extras/thing.py": "x = 1"}),
    (arrows, {"epg/cli/app.py": "from pipelines.epg_full import pipeline"}),
    (arrows, {"epg/machine.py": "from epg.store import open_store"}),
    (arrows, {"epg/cli/run.py": "from pipelines.epg_full import pipeline"}),
    (arrows, {"components/gate/component.py": "from epg.evaluation import frechet_distance"}),
    (stages_apart, {"epg/stages/gate.py": "from epg.stages.evaluate import evaluate"}),
    (stages_apart, {"epg/stages/gate.py": "def f():\n    import epg.stages.register"}),
    (stages_apart, {"epg/stages/gate.py": "from epg.stages import shard"}),
    (cluster_alone, {"epg/cli/app.py": "def f():\n    from kfp import local"}),
    (
        no_circle,
        {
            "epg/report/page.py": "from epg.report.curves import loss_chart",
            "epg/report/curves.py": "def f():\n    from epg.report.page import render",
        },
    ),
    (cluster_alone, {"epg/stages/submit.py": "import kubernetes.client"}),
    (torch_and_kfp_apart, {"epg/cluster/submit.py": "import kfp\nimport torch"}),
    (torch_and_kfp_apart, {"pipelines/policy.py": "def f():\n    import torch.nn"}),
    (light_at_the_top, {"epg/cli/app.py": "import torch"}),
    (light_at_the_top, {"epg/stages/gate.py": "try:\n    from scipy import linalg\nfinally: ..."}),
    (
        light_at_the_top,
        {
            "epg/stages/gate.py": "from epg.training.loop import train",
            "epg/training/__init__.py": "",
            "epg/training/loop.py": "from epg.model.vit import Encoder",
            "epg/model/vit.py": "import timm.layers",
        },
    ),
    (
        light_at_the_top,
        {
            "epg/config/loading.py": "from epg.store.base import Store",
            "epg/store/__init__.py": "import sklearn",
            "epg/store/base.py": "",
        },
    ),
    (thin_components, component(f"if a:\n    {IMPORT}\n    gate_component(a)")),
    (thin_components, component(f"{IMPORT}\ngate_component(str(a))")),
    (thin_components, component(f"{IMPORT}\na = 1\ngate_component(a)")),
    (thin_components, component(IMPORT)),
    (thin_components, component(f"{IMPORT}\ngate_component(a)", "import numpy\nimport kfp.dsl")),
    (thin_components, {"components/gate/component.py": "from kfp import dsl"}),
    (no_utils, {"epg/store/utils.py": ""}),
    (no_utils, {"epg/utils/text.py": ""}),
]


@pytest.mark.parametrize(
    ("rule", "files"),
    VIOLATIONS,
    ids=[f"{case[0].__name__}-{n}" for n, case in enumerate(VIOLATIONS)],
)
def test_violation_is_caught(rule, files):
    assert list(rule(parse(files)))


@pytest.mark.parametrize(
    "files",
    [
        {"components/gate/component.py": GOOD_COMPONENT},
        {"epg/cli/app.py": "def run():\n    from epg.stages.gate import gate\n    gate()"},
        {"epg/stages/gate.py": "def gate():\n    import torch\n    from epg.model import encoder"},
        {"epg/telemetry/table.py": "from epg import __version__\nfrom epg.errors import UserError"},
        {"epg/store/lease.py": "from epg.machine import process_started"},
        {"epg/store/base.py": "import typing\nif typing.TYPE_CHECKING:\n    import torch"},
        {"epg/store/__init__.py": "from .base import Store", "epg/store/base.py": ""},
        {"epg/cluster/local.py": "from kfp import local\nfrom epg.stages.gate import gate"},
        {"pipelines/epg_full.py": "from kfp import dsl\nfrom components.gate import component"},
    ],
)
def test_good_source_passes(files):
    assert [message for rule in RULES for message in rule(parse(files))] == []
