"""YAML without its traps: words such as no, and keys that stand twice."""

import re

import yaml


class _Loader(yaml.CSafeLoader):
    """Refuses a key that stands twice in one mapping, where YAML keeps the last.

    Plain words and numbers are those of YAML 1.2: ``no`` is a text and 010 is ten.
    """

    yaml_implicit_resolvers = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        written = [key.value for key, _ in node.value if key.value != "<<"]
        if repeated := {key for key in written if written.count(key) > 1}:
            raise yaml.constructor.ConstructorError(
                problem=f"the key {repeated.pop()!r} stands twice in one section",
                problem_mark=node.start_mark,
            )
        return super().construct_mapping(node, deep)


for _kind, _pattern in {
    "merge": "<<",
    "null": "~|null|Null|NULL|",
    "bool": "true|True|TRUE|false|False|FALSE",
    "int": "[-+]?(0|[1-9][0-9]*)",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan",
}.items():
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_kind}", re.compile(f"^({_pattern})$"), None
    )


def parse_yaml(text: str, source: str) -> dict:
    """Read a mapping; ``source`` names the text in errors."""
    try:
        values = yaml.load(text, _Loader)  # noqa: S506  a safe loader
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(
            f"{source} cannot be read as YAML; correct it: {error}"
        ) from error
    if not isinstance(values, dict):
        raise ValueError(
            f'{source} must be YAML of the form "section: {{key: value}}"; got '
            f"{text[:80]!r}."
        )
    return values
