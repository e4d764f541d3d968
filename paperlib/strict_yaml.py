"""YAML without its traps: words such as no, keys that stand twice, bombs."""

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


def _check_size(text: str) -> None:
    """Refuse nesting and repeated anchors that would fill the memory."""
    sizes, open_nodes = {}, [[None, 0]]  # of anchors; anchor and size of open nodes
    for event in yaml.parse(text, yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append([event.anchor, 1])
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_nodes.pop()
            sizes[anchor] = size
            open_nodes[-1][1] += size
        elif isinstance(event, yaml.AliasEvent):
            open_nodes[-1][1] += sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            sizes[event.anchor] = 1
            open_nodes[-1][1] += 1
        if len(open_nodes) > 50 or open_nodes[-1][1] > 100_000:
            raise ValueError("it is nested too deeply, or too large once expanded.")


def parse_yaml(text: str, source: str) -> dict:
    """Read a mapping; ``source`` names the text in errors."""
    try:
        _check_size(text)
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
