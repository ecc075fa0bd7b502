"""Check that product code and documents use no word of `words.toml`: readers know English as a second language.

Spelling is codespell's work; its settings are in pyproject.toml.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from tests.checks.sources import PRODUCT, texts

WORDS = Path(__file__).with_name("words.toml")

_INNER_CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])")


class Finder:
    """Finds words of a list in text. `instead` has for each word what to write in its place; `names` are exempt."""

    def __init__(self, instead: Mapping[str, str], names: Collection[str] = ()) -> None:
        self._instead = {word.lower(): better for word, better in instead.items()}
        # The longest first: `left overs` is named as such, not as a shorter word in it.
        longest_first = sorted(self._instead, key=len, reverse=True)
        spelled = "|".join(re.escape(word).replace(r"\ ", r"[ _-]") for word in longest_first)
        self._any = re.compile(rf"(?<![a-z])({spelled})(?![a-z])", re.IGNORECASE)
        self._names = re.compile(rf"\b(?:{'|'.join(map(re.escape, names))})\b") if names else None

    def find(self, text: str) -> Iterator[tuple[int, str, str]]:
        """Each place: line from 1, the word as it stands in the list, and what to write instead."""
        for number, line in enumerate(text.splitlines(), start=1):
            without_names = line if self._names is None else self._names.sub("", line)
            for match in self._any.finditer(_INNER_CAPITAL.sub(" ", without_names)):
                word = re.sub(r"[_-]", " ", match[1].lower())
                yield number, word, self._instead[word]


def main() -> int:
    """Print every place; 1 if there is one."""
    rules = tomllib.loads(WORDS.read_text("utf-8"))
    finder = Finder(rules["instead"], rules["names"]["kept"])
    files = places = 0
    for path, text in texts((*PRODUCT, "docs")):
        files += 1
        for line, word, better in finder.find(text):
            places += 1
            print(f"{path}:{line}: {word!r}; write instead: {better}")
    print(f"{files} files, {places} words that the project does not use")
    return 1 if places else 0


if __name__ == "__main__":
    sys.exit(main())
