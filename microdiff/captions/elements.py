"""Which elements are open while HTML is read, and what that means for the text inside."""

_HIDDEN = frozenset(["rp", "rt", "script", "style", "template"])  # their words are not part of the text
_VERBATIM = frozenset(["pre", "textarea"])  # blanks inside are kept


class OpenElements:
    """Collects text while keeping track of the elements that are open."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.pending: list[str] = []  # text since the last tag
        self.open: list[str] = []
        self.depth: dict[str, int] = {}  # how many elements of each name are open
        self.hidden = 0
        self.verbatim = 0
        self.closed: dict[str, int] = {}  # void elements whose own end tag would come too late

    def flush(self, *, visible: bool | None = None) -> None:
        """End the current run of text; `visible` overrides what the open elements say."""
        if not self.pending:
            return
        text = "".join(self.pending)
        self.pending = []
        if not self.verbatim and not text.strip(" \n\t\f\r"):
            text = "\n" if "\n" in text else " "
        if visible if visible is not None else not self.hidden:
            self.pieces.append(text)

    def aside(self, text: str, *, visible: bool = False) -> None:
        """Take a comment, declaration or marked section; only the last kind can be visible."""
        self.flush()
        self.pending.append(text)
        self.flush(visible=visible)

    def start(self, name: str) -> None:
        """Open an element."""
        self.flush()
        self.open.append(name)
        self.depth[name] = self.depth.get(name, 0) + 1
        self.hidden += name in _HIDDEN
        self.verbatim += name in _VERBATIM

    def end(self, name: str) -> None:
        """Close the innermost element of that name, and all those inside it."""
        self.flush()
        while self.depth.get(name):
            closing = self.open.pop()
            self.depth[closing] -= 1
            self.hidden -= closing in _HIDDEN
            self.verbatim -= closing in _VERBATIM
            if closing == name:
                break

    def end_tag(self, name: str) -> None:
        """Take an end tag as it stands in the markup."""
        if self.closed.get(name):
            self.closed[name] -= 1
        else:
            self.end(name)
