"""From a template to HTML: autoescaped, without script, with a content security policy."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

#: Nothing is loaded from anywhere: pictures are data URIs, styles are inline, scripts are refused.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@functools.cache
def environment() -> Environment:
    """Return the template environment: everything is escaped, a missing name is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("epg.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(policy=POLICY)
    return made


def render(template: str, **values: Any) -> str:
    """Fill a template of this package."""
    return environment().get_template(template).render(**values)
