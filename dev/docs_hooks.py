"""Fills the page of recipes from the source of `recipes/`; MkDocs calls it for each page."""

import re
import textwrap

from keras_meanflow.recipe import Found, methods, tasks

KINDS = {"<!-- tasks -->": tasks, "<!-- methods -->": methods}


def on_page_markdown(markdown, **_):
    """The page, with a section for each recipe in place of the marks."""
    for mark, known in KINDS.items():
        if mark in markdown:
            markdown = markdown.replace(mark, "\n".join(section(one) for one in known().values()))
    return markdown


def section(one: Found) -> str:
    """Heading, description, facts and knobs of one recipe."""
    prose, facts = described(one.doc)
    knobs = "\n".join(f"| `{name}` | `{default}` |" for name, default in one.defaults.items())
    return (
        f"### {one.name}\n\n{prose}\n\n```text\n{facts}\n```\n\n"
        f'??? note "Knobs of `--set`"\n\n    | knob | default |\n    |---|---|\n'
        f"{textwrap.indent(knobs, '    ')}\n"
    )


def described(doc: str) -> tuple[str, str]:
    """The sentences of a docstring, and its facts: paper, command, data, cost, expected results."""
    lines = doc.splitlines()
    first = next(i for i, line in enumerate(lines) if re.match(r"(Data )?[A-Z]\w+: ", line))
    return "\n".join(lines[:first]).strip(), "\n".join(lines[first:]).strip()
