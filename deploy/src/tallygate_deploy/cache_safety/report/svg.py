"""Pieces of SVG. Every text that comes from data goes through here, and is escaped here."""

from __future__ import annotations

from html import escape


def element(name: str, *children: str, **attributes: str | float) -> str:
    """An element; `data_end` becomes `data-end`, `class_` becomes `class`, and numbers are cut to two decimals."""
    written = "".join(f' {_name(key)}="{escape(_value(value))}"' for key, value in attributes.items())
    return f"<{name}{written}>{''.join(children)}</{name}>"


def text(x: float, y: float, content: str, class_: str = "", **attributes: str | float) -> str:
    """A line of text whose baseline begins at a point."""
    return element("text", escape(content), x=x, y=y, class_=class_, **attributes)


def titled(content: str) -> str:
    """What is read out, and shown under a pointer."""
    return element("title", escape(content))


def drawing(name: str, title: str, description: str, width: float, height: float, *children: str) -> str:
    """A drawing with a title and a description for those who can't see it."""
    return element(
        "svg",
        element("title", escape(title), id=f"{name}-title"),
        element("desc", escape(description), id=f"{name}-desc"),
        *children,
        id=name,
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
        xmlns="http://www.w3.org/2000/svg",
    )


def _name(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def _value(value: str | float) -> str:
    return value if isinstance(value, str) else f"{round(value, 2):g}"
