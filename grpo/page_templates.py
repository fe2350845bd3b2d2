"""The templates of HTML pages, with escaping on: what a model wrote is untrusted text."""

from pathlib import Path

import jinja2


def page_template(path: Path) -> jinja2.Template:
    """A template whose undefined names are errors and whose values are escaped.

    Args:
        path: of the `.html.jinja` file.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(path.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(path.name)
