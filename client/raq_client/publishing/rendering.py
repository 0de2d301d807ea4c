"""The templates of what is published."""

from jinja2 import Environment, PackageLoader, StrictUndefined, Template, select_autoescape

_TEMPLATES = Environment(
    loader=PackageLoader("raq_client.publishing"),
    autoescape=select_autoescape(("svg.jinja",)),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def template(name: str) -> Template:
    """The template in a file; values are escaped in SVG only."""
    return _TEMPLATES.get_template(name)
