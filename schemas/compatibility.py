"""Whether a schema may follow another: every message that was valid stays valid and keeps its meaning.

That is the BACKWARD rule of schema registries, and a little more: a field is never taken away, because
one that is renamed looks like that, and what old messages say in it would be passed over in silence.
Each function returns what would break, one sentence a field; an empty list is a yes.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

Spec = Mapping[str, Any]
"""One (sub)schema as parsed JSON."""

_LOWER_BOUNDS = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER_BOUNDS = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_EXACT = ("pattern", "const", "format", "contentEncoding", "multipleOf", "uniqueItems")
_LINE = re.compile(r"^  (?:(optional|repeated) )?(map<string, \w+>|\w+) (\w+) = (\d+);")

_PROMOTIONS = {
    "int": {"long", "float", "double"},
    "long": {"float", "double"},
    "float": {"double"},
    "string": {"bytes"},
    "bytes": {"string"},
}
"""Avro: what a written type may be read as, besides itself."""


def json_breaks(old: Spec, new: Spec) -> list[str]:
    """What breaks between two JSON Schemas of one event type."""
    return list(_JsonComparison(old.get("$defs", {}), new.get("$defs", {})).breaks(old, new, ""))


class _JsonComparison:
    """Walks both schemas side by side; `$ref`s lead into each one's own definitions."""

    def __init__(self, old_definitions: Spec, new_definitions: Spec) -> None:
        self._old, self._new = old_definitions, new_definitions

    def breaks(self, old: Spec, new: Spec, path: str) -> Iterator[str]:
        old, new = _resolved(old, self._old), _resolved(new, self._new)
        named = path or "the message"
        if "anyOf" in old or "anyOf" in new or "oneOf" in old or "oneOf" in new:
            yield from self._alternatives(old, new, path)
            return
        if old.get("type") != new.get("type") and (old.get("type"), new.get("type")) != ("integer", "number"):
            yield f"{named}: type {old.get('type')} becomes {new.get('type')}"
            return
        yield from _narrowed(old, new, named)
        if "default" in old and old["default"] != new.get("default"):
            yield f"{named}: default {old['default']!r} becomes {new.get('default')!r}"
        yield from self._inside(old, new, path)

    def _alternatives(self, old: Spec, new: Spec, path: str) -> Iterator[str]:
        was, now = _branches(old), _branches(new)
        for branch in was:
            tried = [list(self.breaks(branch, other, path)) for other in now]
            if [] in tried:
                continue
            same = [broken for broken, other in zip(tried, now, strict=True) if _type(branch) == _type(other)]
            yield from same[0] if same else [f"{path}: {_type(branch)} is no longer taken"]
        if "default" in old and old["default"] != new.get("default"):
            yield f"{path}: default {old['default']!r} becomes {new.get('default')!r}"

    def _inside(self, old: Spec, new: Spec, path: str) -> Iterator[str]:
        was, now = old.get("properties", {}), new.get("properties", {})
        for name in sorted(set(new.get("required", ())) - set(old.get("required", ()))):
            yield f"{_join(path, name)}: required now, and old messages may lack it"
        for name, spec in was.items():
            if name not in now:
                yield f"{_join(path, name)}: taken away (or renamed)"
            else:
                yield from self.breaks(spec, now[name], _join(path, name))
        yield from self._patterns(old.get("patternProperties", {}), new.get("patternProperties", {}), path)
        for inner, suffix in (("items", "[]"), ("additionalProperties", "{}"), ("propertyNames", "{key}")):
            before, after = old.get(inner, True), new.get(inner, True)
            if isinstance(before, Mapping) and isinstance(after, Mapping):
                yield from self.breaks(before, after, path + suffix)
            elif after is False and before is not False:
                yield f"{path or 'the message'}: unknown fields are refused now"
            elif isinstance(after, Mapping) and before is True:
                yield f"{path}{suffix}: anything was taken, {_type(after)} is now"

    def _patterns(self, old: Spec, new: Spec, path: str) -> Iterator[str]:
        """Maps whose keys have a pattern: pydantic refuses a key that has not."""
        if set(old) != set(new):
            yield f"{path}{{key}}: pattern {', '.join(old) or 'none'} becomes {', '.join(new) or 'none'}"
        for pattern in old.keys() & new.keys():
            yield from self.breaks(old[pattern], new[pattern], path + "{}")


def _resolved(spec: Spec, definitions: Spec) -> Spec:
    if "$ref" not in spec:
        return spec
    target: Spec = definitions[spec["$ref"].rpartition("/")[2]]
    return {**target, **{name: value for name, value in spec.items() if name != "$ref"}}


def _branches(spec: Spec) -> list[Spec]:
    """The alternatives of a schema, nested ones too."""
    inner = [*spec.get("anyOf", ()), *spec.get("oneOf", ())]
    return [leaf for one in inner for leaf in _branches(one)] if inner else [_without_default(spec)]


def _without_default(spec: Spec) -> Spec:
    return {name: value for name, value in spec.items() if name != "default"}


def _type(spec: Spec) -> str:
    return str(spec.get("type", spec.get("$ref", "anything")))


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _narrowed(old: Spec, new: Spec, named: str) -> Iterator[str]:
    for bound in _LOWER_BOUNDS:
        if bound in new and new[bound] > old.get(bound, float("-inf")):
            yield f"{named}: {bound} {old.get(bound, 'none')} becomes {new[bound]}"
    for bound in _UPPER_BOUNDS:
        if bound in new and new[bound] < old.get(bound, float("inf")):
            yield f"{named}: {bound} {old.get(bound, 'none')} becomes {new[bound]}"
    for rule in _EXACT:
        if rule in new and old.get(rule) != new[rule]:
            yield f"{named}: {rule} {old.get(rule, 'none')} becomes {new[rule]}"
    if "enum" in new:
        allowed = old.get("enum", [old["const"]] if "const" in old else [])
        gone = [value for value in allowed if value not in new["enum"]]
        if gone or not allowed:
            yield f"{named}: {', '.join(map(repr, gone)) or 'other values'} no longer allowed"


def avro_breaks(old: Any, new: Any) -> list[str]:
    """What breaks when messages written with the Avro schema `old` are read with `new`."""
    return list(_avro(old, new, "", ({}, {})))


def _avro(old: Any, new: Any, path: str, known: tuple[dict[str, Any], dict[str, Any]]) -> Iterator[str]:
    old, new = _known(old, known[0]), _known(new, known[1])
    if isinstance(old, list):
        for branch in old:
            yield from _avro(branch, new, path, known)
        return
    if isinstance(new, list):
        tried = [list(_avro(old, branch, path, known)) for branch in new]
        if [] not in tried:
            kin = [
                one for one, branch in zip(tried, new, strict=True) if _avro_type(branch) == _avro_type(old)
            ]
            yield from kin[0] if kin else [f"{path}: {_avro_type(old)} is no longer read"]
        return
    was, now = _avro_type(old), _avro_type(new)
    if was == now:
        yield from _avro_inside(old, new, path, known)
    elif now not in _PROMOTIONS.get(was, ()):
        yield f"{path}: {was} cannot be read as {now}"


def _avro_inside(
    old: Any, new: Any, path: str, known: tuple[dict[str, Any], dict[str, Any]]
) -> Iterator[str]:
    """Two schemas of one type."""
    type_ = _avro_type(old)
    if type_ == "record":
        yield from _avro_fields(old, new, path, known)
    elif type_ == "enum":
        for symbol in [one for one in old["symbols"] if one not in new["symbols"] and "default" not in new]:
            yield f"{path}: {symbol!r} no longer allowed"
    elif type_ == "array":
        yield from _avro(old["items"], new["items"], f"{path}[]", known)
    elif type_ == "map":
        yield from _avro(old["values"], new["values"], f"{path}{{}}", known)


def _avro_fields(
    old: Spec, new: Spec, path: str, known: tuple[dict[str, Any], dict[str, Any]]
) -> Iterator[str]:
    was = {field["name"]: field for field in old["fields"]}
    now = {field["name"]: field for field in new["fields"]}
    for name, field in was.items():
        if name not in now:
            yield f"{_join(path, name)}: taken away (or renamed)"
            continue
        yield from _avro(field["type"], now[name]["type"], _join(path, name), known)
    for name, field in now.items():
        if name not in was and "default" not in field:
            yield f"{_join(path, name)}: new and without a default"


def _known(schema: Any, names: dict[str, Any]) -> Any:
    """A named type's definition, also where only its name stands; remembers the ones that it meets."""
    if isinstance(schema, str):
        return names.get(schema, schema)
    if isinstance(schema, dict) and "name" in schema:
        names[f"{schema.get('namespace', '')}.{schema['name']}".strip(".")] = schema
    return schema


def _avro_type(schema: Any) -> str:
    return str(schema["type"]) if isinstance(schema, dict) else str(schema)


def proto_breaks(old: str, new: str) -> list[str]:
    """What breaks between two .proto files that `schemas.protobuf` wrote."""
    was, now = _proto_messages(old), _proto_messages(new)
    broken: list[str] = []
    for message, fields in was.items():
        for name, (label, type_, number) in fields.items():
            here = f"{message}.{name}"
            if message not in now or name not in now[message]:
                broken.append(f"{here}: taken away (or renamed)")
                continue
            label_now, type_now, number_now = now[message][name]
            if number != number_now:
                broken.append(f"{here}: number {number} becomes {number_now}")
            if (label, type_) != (label_now, type_now):
                was_said, now_said = f"{label} {type_}".strip(), f"{label_now} {type_now}".strip()
                broken.append(f"{here}: {was_said} becomes {now_said}")
        numbers = {number: name for name, (_, _, number) in fields.items()}
        broken += [
            f"{message}.{name}: number {number} was {numbers[number]}'s"
            for name, (_, _, number) in now.get(message, {}).items()
            if numbers.get(number, name) != name
        ]
    return broken


def _proto_messages(text: str) -> dict[str, dict[str, tuple[str, str, int]]]:
    """Message → field → (label, type, number)."""
    messages: dict[str, dict[str, tuple[str, str, int]]] = {}
    fields: dict[str, tuple[str, str, int]] = {}
    for line in text.splitlines():
        if line.startswith("message "):
            fields = messages.setdefault(line.split()[1], {})
        elif match := _LINE.match(line):
            fields[match[3]] = (match[1] or "", match[2], int(match[4]))
    return messages
