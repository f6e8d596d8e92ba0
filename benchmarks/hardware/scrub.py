"""Takes this machine out of texts: a report names no folders and no users."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# An absolute path with folders: not after a letter, a dot (relative) or a colon (an address).
_ABSOLUTE = re.compile(r"(?<![\w.:/~$-])/(?:[\w.+@~=-]+/)+")


class Scrubber:
    """Replaces known folders by short names; of every other absolute path only the last part stays."""

    def __init__(self, root: Path, temporary: Sequence[Path] = ()) -> None:
        known = [(str(root), "."), (os.path.realpath(root), "."), (sys.prefix, "$PYTHON")]
        known += [(str(folder), "$TMP") for folder in temporary]
        known += [(os.path.expanduser("~"), "~")]
        # The longest first: a home may contain the checkout.
        known = [(text, name) for text, name in known if len(text) > 3]
        known.sort(key=lambda pair: -len(pair[0]))
        self._known = [(re.compile(re.escape(text) + r"(?![\w-])"), name) for text, name in known]

    def text(self, text: str) -> str:
        for pattern, name in self._known:
            text = pattern.sub(lambda _, name=name: name, text)
        return _ABSOLUTE.sub(".../", text)

    def value(self, value: Any) -> Any:
        """The same for every string of a JSON value."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(item) for item in value]
        if isinstance(value, dict):
            return {self.text(key): self.value(item) for key, item in value.items()}
        return value
