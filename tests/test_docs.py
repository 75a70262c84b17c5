"""README.md and docs/: commands, imports and names hold. Nothing is trained and no data is read."""

import ast
import importlib
import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from keras_meanflow.backend import BACKEND
from keras_meanflow.cli import main
from keras_meanflow.recipe import methods, tasks
from keras_meanflow.training.plan import Plan

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
TEXTS = {page: page.read_text("utf-8") for page in PAGES}

FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
INLINE = re.compile(r"`((?:keras-meanflow|torchrun) [^`]+)`")
SHELL = ("", "sh", "bash", "shell", "console")
COMMAND = re.compile(r"(?:keras-meanflow|-m keras_meanflow\.cli)(?=\s)")
PLACEHOLDERS = {"TASK": "digits", "METHOD": "mean_flow", "BACKEND": BACKEND}
DRY = ("gaussian", "digits")  # their data is inside the package
FILES = ("data", "flow", "pair_store", "start", "teacher")  # knobs that name a file or a run


def blocks(text, *languages):
    """The fenced blocks in these languages; an indented block has none."""
    found = [body for language, body in FENCED.findall(text) if language in languages]
    if "" in languages:
        plain = FENCED.sub("", text)
        found += re.findall(r"(?:^(?: {4}.*\S.*)?\n)+", plain, re.M)
    return found


def commands(text):
    """The words after `keras-meanflow` of each command, in shell blocks and between backticks."""
    lines = [line for block in blocks(text, *SHELL) for line in block.splitlines(keepends=True)]
    joined = re.sub(r"\\\n\s*", "", "".join(lines)).splitlines()
    inline = [" ".join(code.split()) for code in INLINE.findall(FENCED.sub("", text))]
    found = [words for line in joined for words in _commands_of(line)]
    return found + [words for line in inline for words in _commands_of(line) if len(words) > 1]


def _commands_of(line):
    for match in COMMAND.finditer(line.partition(" # ")[0]):
        lexer = shlex.shlex(line[match.end() :], posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = list(lexer)
        end = next((i for i, word in enumerate(words) if set(word) <= set("();<>|&")), None)
        yield [PLACEHOLDERS.get(word, word) for word in words[:end]]


def check(words):
    """Parse a command, and find what it trains; a `click.UsageError` or ValueError is a fault."""
    command, name, rest = main, "keras-meanflow", list(words)
    while isinstance(command, click.Group) and rest:
        name = rest.pop(0)
        if name not in command.commands:
            raise click.UsageError(f"There is no command {name!r}. Received: {words}.")
        command = command.commands[name]
    if isinstance(command, click.Group):
        if not command.invoke_without_command:
            raise click.UsageError(f"{name} needs a command. Received: {words}.")
        return
    given = command.make_context(name, rest).params
    if words[:2] == ["tasks", "show"] and given["name"] not in tasks():
        raise ValueError(f"There is no task {given['name']!r}.")
    if words[:2] == ["methods", "show"] and given["name"] not in methods():
        raise ValueError(f"There is no method {given['name']!r}.")
    if "task" in given:
        sized = [] if given["size"] is None else [f"size={given['size']}"]
        Plan.of(given["task"], given["method"]).resolve([*sized, *given["settings"]])


def _cases():
    """Each command once, under its own text."""
    found = {tuple(words): None for text in TEXTS.values() for words in commands(text)}
    return [pytest.param(words, id=shlex.join(words)) for words in found]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Works in a folder with the files of the pages: Python blocks that begin with `# NAME.py`."""
    for text in TEXTS.values():
        for block in blocks(text, "python"):
            if named := re.match(r"# (\w+\.py)\n", block):
                (tmp_path / named[1]).write_text(block, "utf-8")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("words", _cases())
def test_a_command_names_what_exists(words, files):
    check(words)


def _dry():
    """Trainings of data that is inside the package."""

    def whole(words):
        knobs = {word.partition("=")[0] for word in words}
        inside = words[0] == "train" and (words[1] in DRY or words[1].endswith(".py"))
        return inside and not knobs & {*FILES, "--devices"}

    return [case for case in _cases() if whole(case.values[0])]


@pytest.mark.any_backend
@pytest.mark.parametrize("words", _dry())
def test_a_training_of_data_in_the_package_can_start(words, files):
    words = [*words, "--dry-run", "--backend", BACKEND]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output


FAULTS = [
    "train digit",
    "train digits_improved",
    "train digits --method alpha",
    "train digits --method re_mean_flow --set data=PAIRS",
    "train digits --set stepss=1000",
    "train digits --set steps=many",
    "train imagenet256 --size b3",
    "train speech --method re_mean_flow",
    "train digits --method-name alpha_flow",
    "train",
    "bench digits --set dept=3",
    "study two-stages digits_flow",
    "study three-stages digits",
    "study",
    "recipes",
    "tasks show digits_split",
    "methods show split",
    "sample runs/digits --sampler rungekutta",
    "export runs/digits",
    "evaluate runs/digits --protocols digits-lenet",
]


@pytest.mark.parametrize("text", FAULTS)
def test_a_command_that_names_what_does_not_exist_is_found(text):
    with pytest.raises((click.UsageError, ValueError)):
        check(shlex.split(text))


def test_commands_are_found_in_each_kind_of_block():
    page = (
        "Run `keras-meanflow train digits\n--set steps=1` or `keras-meanflow train`.\n\n"
        "    A=1 keras-meanflow train mnist \\\n        --set width=8  # joined\n"
        "    for s in 0 1; do\n        keras-meanflow sample runs/mnist -n 4 & done; wait\n\n"
        "```\ntorchrun --nproc-per-node 2 -m keras_meanflow.cli train TASK\n```\n"
        "```python\ntext = 'keras-meanflow train nothing'\n```\n"
    )
    assert [" ".join(words) for words in commands(page)] == [
        "train digits",
        "train mnist --set width=8",
        "sample runs/mnist -n 4",
        "train digits --set steps=1",
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_imports_of_a_page_exist(page):
    for block in blocks(TEXTS[page], "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Import | ast.ImportFrom) and "keras_meanflow" in (
                code := ast.unparse(node)
            ):
                exec(code, {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_names_in_a_page_exist(page):
    for name in re.findall(r"`(keras_meanflow(?:\.\w+)+)", TEXTS[page]):
        parts = name.split(".")
        found = importlib.import_module(parts[0])
        for i, part in enumerate(parts[1:], start=2):
            try:
                found = importlib.import_module(".".join(parts[:i]))
            except ImportError:
                found = getattr(found, part)


def test_a_run_is_named_as_train_names_it():
    """runs/TASK, runs/TASK_METHOD, one of the page's own, or --run."""
    plans = [Plan(task, method) for task in tasks().values() for method in methods().values()]
    names = {"TASK", "TASK_METHOD", *(plan.name for plan in plans if not plan.lacking())}
    for plan in plans:
        for size in plan.task.mark.get("sizes", ()):
            names.add("_".join(filter(None, [plan.task.name, size, plan.method_in_name])))
    for page, text in TEXTS.items():
        own = re.findall(r"^def (\w+)", text, re.M)
        known = names | set(re.findall(r"--run runs/(\w+)", text))
        unknown = set(re.findall(r"(?<!\w)runs/(\w+)(?![\w.])", text)) - known
        assert not [name for name in unknown if not name.startswith(tuple(own))], page.name


def test_the_readme_is_short():
    text = TEXTS[ROOT / "README.md"]
    assert len(text.splitlines()) <= 90 and len(text.split()) <= 600


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_lines_are_short(page):
    assert [line for line in TEXTS[page].splitlines() if len(line) > 120] == []


def test_every_page_is_in_the_navigation():
    navigation = re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text("utf-8"))
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in ROOT.glob("docs/**/*.md")]
    assert sorted(navigation) == sorted(pages)


def test_every_package_has_a_page_of_its_api():
    documented = {page.stem for page in ROOT.glob("docs/reference/api/*.md")} - {"index"}
    packages = {path.parent.name for path in ROOT.glob("keras_meanflow/*/__init__.py")}
    assert documented == packages - {"cli", "_recipes"} | {"recipe"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_between_pages_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?:)([^)#\s]+)", FENCED.sub("", TEXTS[page]))
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


def test_pages_that_the_code_names_exist():
    folders = (ROOT / name for name in ("keras_meanflow", "recipes", "benchmarks"))
    code = "".join(file.read_text() for folder in folders for file in folder.rglob("*.py"))
    named = set(re.findall(r"\bdocs/[\w/]+\.md\b", code))
    assert len(named) > 5
    assert sorted(name for name in named if not (ROOT / name).is_file()) == []
