"""Results of a benchmark as lines of JSON; a run that was stopped continues from them."""

import json


class Lines:
    """Lines of JSON in a file; its folder is made, and a last line that was cut off is ignored."""

    def __init__(self, path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def __iter__(self):
        text = self.path.read_text("utf-8") if self.path.exists() else ""
        return (json.loads(line) for line in text.splitlines() if line.endswith("}"))

    def has(self, **fields):
        """Whether a line has these fields."""
        return any(all(line.get(k) == v for k, v in fields.items()) for line in self)

    def add(self, line):
        """Write a dict as the last line."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
