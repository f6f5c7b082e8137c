"""How a question is put, and how what is generated is read as an answer."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .questions import LETTERS, Question

Style = Literal["harness", "original", "chat"]
STYLES: tuple[Style, ...] = ("harness", "original", "chat")
_INSTRUCTION = (
    "The following are multiple choice questions about {}. Answer each with the letter of the right choice alone: "
    "A, B, C or D."
)


@dataclass(frozen=True)
class Prompt:
    """A question as it is put: one `text` that a model continues, or the `messages` (role, content) of a chat.

    `delimiter` is what stands between it and a letter; `shots` is how many answered questions it holds.
    """

    question: Question
    delimiter: str
    shots: int
    text: str = ""
    messages: tuple[tuple[str, str], ...] = ()

    @property
    def id(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of all that is put."""
        put = json.dumps([self.text, self.messages, self.delimiter], separators=(",", ":"))
        return hashlib.sha256(put.encode()).hexdigest()[:16]


def put(style: Style, question: Question, shots: Sequence[Question]) -> Prompt:
    """Put a question after `shots` that stand answered.

    `harness` is the task ``mmlu`` of lm-evaluation-harness, `original` the code of the paper, which has two spaces
    before the subject and strips nothing; both are continued by a space and a letter. `chat` instructs in words, every
    shot is a turn of its own, and the answer is a letter alone.
    """
    if style == "chat":
        instruction = _INSTRUCTION.format(question.subject.replace("_", " "))
        turns = [(_asked(each).removesuffix("\nAnswer:"), LETTERS[each.answer]) for each in shots]
        said = [message for asked, answer in turns for message in (("user", asked), ("assistant", answer))]
        said.append(("user", _asked(question).removesuffix("\nAnswer:")))
        (role, first), *others = said
        return Prompt(question, "", len(shots), messages=((role, f"{instruction}\n\n{first}"), *others))
    strip = style == "harness"
    head = "The following are multiple choice questions (with answers) about {}{}.\n\n".format(
        "" if strip else " ", question.subject.replace("_", " ")
    )
    answered = (f"{_asked(each, strip=strip)} {LETTERS[each.answer]}\n\n" for each in shots)
    return Prompt(question, " ", len(shots), f"{head}{''.join(answered)}{_asked(question, strip=strip)}")


def _asked(question: Question, *, strip: bool = True) -> str:
    text = question.text.strip() if strip else question.text
    choices = "".join(f"\n{letter}. {choice}" for letter, choice in zip(LETTERS, question.choices, strict=True))
    return f"{text}{choices}\nAnswer:"


_LETTER = re.compile(r"(?:(?:the )?(?:correct )?answer(?: is)?:? ?)?\(?([A-D])\)?(?:[.:)]?|[.:)] ?(.+))", re.IGNORECASE)


def letter(said: str, question: Question) -> str:
    """Read the letter that a model generated, or return '' where it said anything else.

    Taken are the letter alone, also as ``(B)``, ``B.`` or ``**B**``, after ``Answer:`` or ``The answer is``, and
    followed by nothing or by the text of just that choice. Whoever answers in prose has not answered.
    """
    words = " ".join(said.replace("*", "").split())
    found = _LETTER.fullmatch(words)
    if found is None or not found[1].isupper():
        return ""
    rest = (found[2] or "").rstrip(".").strip().casefold()
    own = " ".join(question.choices[LETTERS.index(found[1])].split()).rstrip(".").casefold()
    return found[1] if not rest or rest == own else ""
