"""Reads a bash script as far as is needed to tell whether a quoted word would be read as one at a place in it."""

from __future__ import annotations

import re
from collections.abc import Iterator

VALUE = "\0"  # stands for a value in the text of a template

# where bash does not read a quoted word as one, by what opened it
_PLACES = {
    "'": "inside single quotes", "$'": "inside single quotes", '"': "inside double quotes", "#": "inside a comment",
    "`": "inside backquotes", "${": "inside ${...}", "((": "inside arithmetic",
    "$[": "inside arithmetic",
}  # fmt: skip
_CODE = ("code", "(", "$(", "case", "`")
_HERE = re.compile(r"""<<(-?)[ \t]*((?:'[^'\n\0]*'|"[^"\n\0]*"|\\[^\n\0]|[^\s;&|()<>'"\\\0])*)""")
_CASE, _ESAC = re.compile(r"case\s"), re.compile(r"esac(?=[\s;&|)]|\Z)")
_COMMAND = re.compile(r"(?:^|[\n;&|({!]|\b(?:then|do|else|elif|if|while|until))[ \t]*$")  # what a command may follow


def places(text: str) -> Iterator[str]:
    """Yield for each `VALUE` in a script what is wrong with its place (``inside double quotes``), or nothing."""
    return _Script(text).places()


class _Script:
    """Reads a bash script as far as is needed to tell in what its values (NUL) stand.

    Keeps a stack of what is open, as in ``"$(a "${b:-'c'}")"``: a quote means something else in each.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.open = ["code"]  # besides the keys of _PLACES: ( and $( for what they open, case until its esac
        self.start = True  # a comment or keyword may begin here
        self.wrong = ""  # about what comes next
        self.bodies: list[tuple[str, bool, bool]] = []  # here-documents that begin on the next line

    def places(self) -> Iterator[str]:
        """Yield for each value what is wrong with its place, or nothing."""
        at = 0
        while at < len(self.text):
            began, self.start = self.start, False
            wrong, self.wrong = self.wrong, ""
            if self.text[at] == VALUE:
                yield wrong or self._place(at)
                at += 1
            elif self.text[at] == "\n" and self.bodies and self.open[-1] in _CODE:
                end = self._skip_bodies(at + 1)
                yield from ["inside a here-document"] * self.text.count(VALUE, at, end)
                at, self.start = end, True
            else:
                at += self._read(at, began)

    def _place(self, at: int) -> str:
        if "`" in self.open:
            return _PLACES["`"]
        # a number before < belongs to it; bash expands what follows >& twice, whatever the quotes
        redirects = self.text[at + 1 : at + 2] in ("<", ">") or re.search(r"[<>]&[ \t]*\Z", self.text[:at])
        return _PLACES.get(self.open[-1], "beside a redirection" if redirects else "")

    def _read(self, at: int, began: bool) -> int:
        """Read what stands at `at`; returns how many letters it takes."""
        stack, top, letter = self.open, self.open[-1], self.text[at]
        code = top in _CODE
        if letter == "`" and "`" in stack and self.text[at - 1] != "\\":  # whatever was opened inside
            del stack[stack.index("`") :]
        elif top == "#":
            if letter == "\n":
                stack.pop()
                return 0
        elif top == "'" or (top == "$'" and letter != "\\"):
            if letter == "'":
                stack.pop()
        elif letter == "\\":
            self.start = began and self.text[at + 1 : at + 2] == "\n"
            return self._unless_value(at, 2, "right after a backslash")
        elif letter == "$":
            self._join(at)
            return self._dollar(at)
        elif letter == '"' or (letter == "`" and "`" not in stack):
            stack.pop() if letter == top else stack.append(letter)
            self.start = letter == "`"
        elif letter == {"${": "}", "((": ")", "$[": "]", "$(": ")", "(": ")"}.get(top):
            stack.pop()
            self.start = top == "("
        elif letter == "'" and top != '"':  # a quote in "${x:-'}'}" and $(( ')' )) as well
            stack.append(letter)
        elif top == "((" and letter == "(":
            stack.append(top)
        elif code:
            return self._command(at, began)
        return 1

    def _dollar(self, at: int) -> int:
        if self.text.startswith("$((", at):
            self.open += ["((", "(("]
            return 3
        two = self.text[at : at + 2]
        if two in ("$(", "${", "$[") or (two == "$'" and self.open[-1] != '"'):
            self.open.append(two)
            self.start = two == "$("
            return 2
        return self._unless_value(at, 2 if two == "$$" else 1, "right after a $")

    def _join(self, at: int) -> None:
        """Take out the line continuations inside the operator at `at`, as bash does when it reads."""
        while (cut := self.text.find("\\\n", at + 1, at + 4)) > 0 and self.text[cut - 1] != "\\":
            self.text = self.text[:cut] + self.text[cut + 2 :]

    def _unless_value(self, at: int, step: int, wrong: str) -> int:
        if self.text[at + 1 : at + 2] != VALUE:
            return step
        self.wrong = wrong
        return 1

    def _command(self, at: int, began: bool) -> int:
        """Read what is outside all quotes."""
        if self.text[at] in "<>(":
            self._join(at)
        text, letter = self.text, self.text[at]
        if began and letter == "#":
            self.open.append("#")
        elif began and text.startswith("((", at):
            self.open += ["((", "(("]
            return 2
        elif text.startswith("<<<", at):
            return 3
        elif text.startswith(("<((", ">(("), at):  # whose end bash looks for as it does for that of $((
            self.open += ["((", "(("]
            return 3
        elif match := _HERE.match(text, at):
            mark = re.sub(r"""['"\\]""", "", match[2])
            self.bodies.append((mark, bool(match[1]), mark != match[2]))
            if text[match.end() : match.end() + 1] == VALUE:
                self.wrong = "in the end mark of a here-document"
            return len(match[0])
        elif began and _CASE.match(text, at) and _COMMAND.search(text, 0, at):
            self.open.append("case")
        elif began and self.open[-1] == "case" and _ESAC.match(text, at):
            self.open.pop()
        else:
            if letter == "(":
                self.open.append("(")
            self.start = letter in " \t\n;&|()<>"
        return 1

    def _skip_bodies(self, at: int) -> int:
        """Return where the here-documents end whose first line begins at `at`."""
        for mark, indented, literal in self.bodies:
            closed = False
            while at < len(self.text) and not closed:
                end = self.text.find("\n", at)
                # unless the document is taken literally, a backslash joins the next line
                while not literal and end > 0 and (end - len(self.text[at:end].rstrip("\\")) - at) % 2:
                    end = self.text.find("\n", end + 1)
                end = len(self.text) if end < 0 else end
                line = self.text[at:end]
                closed = (line.lstrip("\t") if indented else line) == mark
                at = end + 1
        self.bodies = []
        return min(at, len(self.text))
