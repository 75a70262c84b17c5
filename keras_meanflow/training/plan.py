"""A plan: a task by a method, and the knobs of both. Keras is imported only to train it."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Iterable

from keras_meanflow.recipe import Found, find, found_in, methods, nearest, read_setting

if typing.TYPE_CHECKING:
    from keras_meanflow.training.training import Training


@dataclasses.dataclass(frozen=True)
class Plan:
    """A task by a method: what a run is made of.

    Args:
        task: the task.
        method: the method; None for a task that makes a whole `Training`.
    """

    task: Found
    method: Found | None

    @classmethod
    def of(cls, task: str, method: str | None = None) -> Plan:
        """The plan of a task and a method, given by name or file.

        Without a method it is the first method of the task.

        Raises:
            ValueError: for an unknown name, or for a method that needs what the task does not have.

        Example:
            >>> Plan.of("digits", "alpha_flow").training(["until=0.8"])
        """
        found = find(task, "task")
        listed = found.mark.get("methods", {})
        own = found.address != found.name
        if method is None and own and not listed:
            beside = found_in(found.file, "method")
            if len(beside) != 1:
                return cls(found, None)
            return cls(found, beside[0])
        method = method or next(iter(listed), "mean_flow")
        plan = cls(found, find(method, "method", found.file if own else None))
        if lacking := plan.lacking():
            suited = ", ".join(
                name for name in methods() if not cls(found, methods()[name]).lacking()
            )
            raise ValueError(
                f"{plan.method.name} needs a task with {', '.join(lacking)}, which {found.name} "
                f"does not have. Its methods are: {suited}."
            )
        return plan

    def lacking(self) -> list[str]:
        """What the method needs and the task does not have."""
        return sorted(set(self.method.mark.get("needs", ())) - set(self.task.mark.get("has", ())))

    @property
    def name(self) -> str:
        """The task's name, then the method's unless it is the first: `digits_alpha_flow`."""
        return "_".join(filter(None, [self.task.name, self.method_in_name]))

    @property
    def method_in_name(self) -> str | None:
        """The method's name; None for the first method of the task."""
        first = next(iter(self.task.mark.get("methods", {})), None)
        return self.method.name if self.method and first not in (None, self.method.name) else None

    def resolve(self, settings: Iterable[str] | dict = ()) -> dict:
        """The values of all knobs, by name.

        They are the defaults, replaced by the task's settings for this method, replaced by
        `settings`.

        Args:
            settings: texts "key=value", or a dict of values. A text is converted to the annotated
                type of the knob; without an annotation, to the type of its default.

        Raises:
            ValueError: for an unknown knob, naming the nearest ones, or a value of another type.

        Example:
            >>> Plan.of("digits").resolve(["steps=100"])["steps"]
            100
        """
        knobs, hints = self._knobs()
        values = {name: knob.default for name, knob in knobs.items()}
        given = settings if isinstance(settings, dict) else self._read_all(settings, knobs, hints)
        self._check_known(given, knobs)
        for row in self._rows(given.get("size", values.get("size"))):
            values |= {name: value for name, value in row.items() if name in values}
        values |= given
        missing = [name for name, value in values.items() if value is inspect.Parameter.empty]
        if missing:
            raise ValueError(f"{self.name} needs --set {missing[0]}=...")
        return values

    def knobs(self) -> dict:
        """The knobs of the task and the method, name -> `inspect.Parameter`."""
        return self._knobs()[0]

    def _knobs(self):
        """The knobs of the task and the method, in order, and their annotations."""
        functions = [found.load() for found in (self.task, self.method) if found]
        knobs = [inspect.signature(function).parameters for function in functions]
        hints = [typing.get_type_hints(function) for function in functions]
        both = {
            n: knob for one in knobs for n, knob in one.items() if knob.kind is knob.KEYWORD_ONLY
        }
        return both, {name: hint for one in hints for name, hint in one.items()}

    def _rows(self, size):
        """The task's tables of settings, from the most general to the most specific."""
        mark, name = self.task.mark, self.method.name if self.method else ""
        yield mark.get("every", {})
        if "sizes" in mark:
            if size not in mark["sizes"]:
                raise ValueError(f"There is no size {size!r}. {nearest(str(size), mark['sizes'])}")
            yield mark["sizes"][size]
        yield mark.get("methods", {}).get(name, {})
        yield mark.get("methods", {}).get(f"{name} {size}", {})

    def _read_all(self, settings, knobs, hints):
        values = {}
        for setting in settings:
            name, equals, text = setting.partition("=")
            if not equals:
                raise ValueError(f"Settings are key=value. Received: {setting!r}.")
            self._check_known([name], knobs)
            values[name] = read_setting(text, hints.get(name, type(knobs[name].default)), name)
        return values

    def _check_known(self, names, knobs):
        for name in names:
            if name not in knobs:
                by = f" by {self.method.name}" if self.method else ""
                raise ValueError(
                    f"{self.task.name}{by} has no knob {name!r}. {nearest(name, list(knobs))}"
                )

    def training(self, settings: Iterable[str] | dict = ()) -> Training:
        """The `Training`, not started; `settings` as in `resolve`."""
        from keras_meanflow.training.method import compose

        knobs = self.resolve(settings)
        make_task, make_method = (found and found.load() for found in (self.task, self.method))
        made = make_task(**_known_to(make_task, knobs))
        if make_method is None:
            return made
        return compose(made, make_method(made, **_known_to(make_method, knobs)))


def _known_to(function, knobs):
    known = inspect.signature(function).parameters
    return {name: value for name, value in knobs.items() if name in known}
