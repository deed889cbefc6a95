"""The HTTP reference as one static page, made from the OpenAPI document; nothing else is fetched."""

from html import escape
from typing import Any

import orjson

_STYLE = """
:root{color-scheme:light dark;--fg:#1c2430;--bg:#fbfbf9;--line:#d9dcd6;--soft:#5b6672;--code:#eef0ec}
@media(prefers-color-scheme:dark){
:root{--fg:#e4e7eb;--bg:#14181d;--line:#2c333b;--soft:#9aa5b1;--code:#1d232a}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg);
max-width:56rem;margin:2rem auto;padding:0 1rem}
h2{font:600 1rem ui-monospace,monospace;border-top:1px solid var(--line);padding-top:1rem;margin-top:1.5rem}
p{color:var(--soft);margin:.25rem 0}
pre{background:var(--code);padding:.75rem;overflow-x:auto;border-radius:6px;font-size:.85rem}
a{color:inherit}
"""


def docs_page(openapi: dict[str, Any]) -> str:
    """HTML with every operation, its parameters and its body's schema."""
    parts = [
        _operation(path, method, spec)
        for path, item in openapi["paths"].items()
        for method, spec in item.items()
    ]
    schemas = "".join(
        f"<details><summary>{escape(name)}</summary><pre>{_pretty(schema)}</pre></details>"
        for name, schema in openapi.get("components", {}).get("schemas", {}).items()
    )
    title = escape(openapi["info"]["title"])
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{title} reference</title><style>{_STYLE}</style><h1>{title}</h1>"
        f"<p>The same as <a href='/openapi.json'>openapi.json</a>. <a href='/'>Console</a></p>"
        f"{''.join(parts)}<h2>Schemas</h2>{schemas}</html>"
    )


def _operation(path: str, method: str, spec: dict[str, Any]) -> str:
    parameters = "".join(
        f"<p><code>{escape(one['name'])}</code> ({escape(one['in'])})</p>"
        for one in spec.get("parameters", [])
    )
    text = escape(spec.get("description") or spec.get("summary", ""))
    example = spec.get("x-example")
    shown = f"<pre>{escape(example)}</pre>" if example else ""
    return f"<h2>{method.upper()} {escape(path)}</h2><p>{text}</p>{parameters}{shown}"


def _pretty(schema: dict[str, Any]) -> str:
    return escape(orjson.dumps(schema, option=orjson.OPT_INDENT_2).decode())
