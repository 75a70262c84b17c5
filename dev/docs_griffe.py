"""Reads our docstrings as Google's for the API pages: an `Example:` is a section of code."""

import re
import textwrap

import griffe

EXAMPLE = re.compile(r"^Example:\n+(.*?)(?=^[A-Z]\w+:$|\Z)", re.M | re.S)


class Examples(griffe.Extension):
    """Turns `Example:` into Google's `Examples:`, indented."""

    def on_object(self, *, obj, **_):
        """Change the docstring of a module, class, function or attribute."""
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub(_section, obj.docstring.value)


def _section(match):
    code = textwrap.indent(textwrap.dedent(match[1]).strip(), "    ")
    return f"Examples:\n{code}\n\n"
