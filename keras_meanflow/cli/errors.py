"""What the commands print when they fail: one line, and a traceback where it may be our fault."""

from __future__ import annotations

import contextlib
import sys
import traceback
import warnings
import zipfile
from collections.abc import Iterator

import click
from click.core import ParameterSource

# What a user's input or a foreign file causes.
EXPECTED = (
    ValueError, ArithmeticError, OSError, ImportError, SyntaxError, EOFError, MemoryError,
    zipfile.BadZipFile,
)  # fmt: skip
FAULTS = (ZeroDivisionError,)
OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "RESOURCE_EXHAUSTED", "OOM when")
LONGEST = 500  # characters of a message that is not ours

traceback_option = click.option(
    "--verbose", "-v", is_flag=True, expose_value=False, help="Show the traceback of an error."
)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Errors end in one line and exit code 1, and warnings are one line too.

    An error that may be a fault of this package names its type; with `--verbose` its traceback is
    printed first. A training that a signal has stopped ends with the signal's exit code.
    """
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            yield
        except click.ClickException:
            raise
        except KeyboardInterrupt as stop:
            click.echo(str(stop) or "Stopped.", err=True)
            sys.exit(getattr(stop, "code", 130))
        except Exception as error:
            if _asked_for_traceback() and not _is_expected(error):
                traceback.print_exc()
            raise click.ClickException(line_of(error)) from error


def line_of(error: Exception) -> str:
    """The error in one line."""
    text = " ".join(str(error).split())
    if _is_out_of_memory(error):
        text = text[:LONGEST]
        return f"There is not enough memory. Ask for less at once. {text}".strip()
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}, is not Python: {error.msg}."
    if _is_expected(error) and text:
        return text
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
    hint = "" if _asked_for_traceback() else " Add --verbose to see where it comes from."
    return f"Unexpected {type(error).__name__}: {text or 'no message'}.{hint}"


def _is_expected(error):
    known = isinstance(error, EXPECTED) and not isinstance(error, FAULTS)
    return known or _is_out_of_memory(error)


def _is_out_of_memory(error):
    """Backends report it as errors of their own."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)


def _asked_for_traceback():
    """Whether --verbose is on the command line, where it is not just the default."""
    context = click.get_current_context(silent=True)
    given = context and context.get_parameter_source("verbose") is ParameterSource.COMMANDLINE
    return bool(given and context.params.get("verbose", True))


def _show_warning(message, category, filename, lineno, file=None, line=None):
    if issubclass(category, UserWarning | RuntimeWarning):
        click.echo(f"Warning: {' '.join(str(message).split())}", err=True)
