"""XML -> events or a small tree, with nothing expanded and nothing fetched.

A document type is refused, or passed over without its entities; expat never reads another file.
Names are local ("p" for any namespace's p); an attribute with a namespace keeps a colon before
its name (":id"), so that `id` and `r:id` stay apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pyexpat import ExpatError, ParserCreate

from rag.errors import DocumentRejected

MAX_DEPTH = 200
"""Elements inside each other; deeper XML is refused."""

_BLOCK = 1 << 16

Start = Callable[[str, dict[str, str]], None]
End = Callable[[str], None]
Data = Callable[[str], None]


@dataclass(slots=True)
class Element:
    """An element: what it is called, its attributes, and its texts and elements in order."""

    tag: str
    attrs: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    def elements(self, *tags: str) -> Iterator[Element]:
        """Yield the child elements, those called `tags` if any are named."""
        for child in self.children:
            if isinstance(child, Element) and (not tags or child.tag in tags):
                yield child

    def first(self, *path: str) -> Element | None:
        """Return the first element down a path of child names, None if there is none."""
        found: Element | None = self
        for tag in path:
            found = next(found.elements(tag), None) if found is not None else None
        return found

    def walk(self, *tags: str) -> Iterator[Element]:
        """Yield all elements below, those called `tags` if any are named, in document order."""
        for child in self.elements():
            if not tags or child.tag in tags:
                yield child
            yield from child.walk(*tags)

    def text(self) -> str:
        """Return all text below, joined."""
        return "".join(child if isinstance(child, str) else child.text() for child in self.children)


def read_events(
    data: bytes,
    what: str,
    start: Start,
    end: End,
    text: Data,
    *,
    doctype: bool = False,
    encoding: str | None = None,
) -> None:
    """Call back for every element and text of an XML file.

    Args:
        data: The file.
        what: Names it in refusals, for example "The sheet's XML".
        start: Called with a local name and the attributes.
        end: Called with a local name.
        text: Called with characters, maybe in pieces.
        doctype: Whether a document type declaration may stand there; its entities are refused
            all the same.
        encoding: Of the bytes, where it is known better than from the file's declaration.

    Raises:
        DocumentRejected: reason "damaged" when it is not well-formed, nests deeper than
            MAX_DEPTH, or declares entities or (without `doctype`) a document type.
    """
    parser = ParserCreate(encoding, namespace_separator="}")
    parser.buffer_text = True
    depth = 0

    def started(name: str, attrs: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise _refused(what, f"its elements nest deeper than {MAX_DEPTH}")
        local = {
            f":{key.rpartition('}')[2]}" if "}" in key else key: value
            for key, value in attrs.items()
        }
        start(name.rpartition("}")[2], local)

    def ended(name: str) -> None:
        nonlocal depth
        depth -= 1
        end(name.rpartition("}")[2])

    def declared(*_: object) -> None:
        raise _refused(what, "it declares entities, which are not expanded")

    def typed(*_: object) -> None:
        if not doctype:
            raise _refused(what, "it declares a document type, which no such file has")

    def undeclared(name: str, is_parameter: bool) -> None:
        if not is_parameter:
            text(f"&{name};")

    parser.StartElementHandler = started
    parser.EndElementHandler = ended
    parser.CharacterDataHandler = text
    parser.EntityDeclHandler = declared
    parser.StartDoctypeDeclHandler = typed
    parser.SkippedEntityHandler = undeclared
    try:
        for position in range(0, len(data), _BLOCK):
            parser.Parse(data[position : position + _BLOCK], False)
        parser.Parse(b"", True)
    except (ExpatError, ValueError, LookupError) as error:
        why = " ".join(str(error).split())[:120]
        raise _refused(what, f"it is no well-formed XML ({why})") from error


def read_tree(
    data: bytes, what: str, *, doctype: bool = False, encoding: str | None = None
) -> Element:
    """Read an XML file into a tree; arguments and refusals as for `read_events`."""
    top = Element("", {})
    stack = [top]

    def start(tag: str, attrs: dict[str, str]) -> None:
        element = Element(tag, attrs)
        stack[-1].children.append(element)
        stack.append(element)

    def end(_: str) -> None:
        stack.pop()

    def text(characters: str) -> None:
        stack[-1].children.append(characters)

    read_events(data, what, start, end, text, doctype=doctype, encoding=encoding)
    return next(top.elements())


def _refused(what: str, why: str) -> DocumentRejected:
    return DocumentRejected(
        f"{what} cannot be read: {why}.",
        reason="damaged",
        do="Save it again in the program it comes from.",
    )
