"""The CustomResourceDefinition, derived from the models in `api`: what pydantic says, in a structural schema's words.

Written twice by `python -m preheat_operator crds`: for people who install by hand, and for the chart, where it is a
template, because Helm never upgrades what lies in a chart's own `crds/`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from preheat.formats.layouts import EMA_OF_EACH
from preheat.formats.merged import NO_TRAINING
from preheat.resume.after import MASKS
from preheat.sources import http, s3
from preheat_operator import composition
from preheat_operator.api import CACHE_ON_CLAIM, GROUP, KIND, NAME_LENGTH, PLURAL, SHORT_NAME, VERSION, Resource
from preheat_operator.stage_models import DEFAULT_LENGTH, mismatch

Schema = dict[str, Any]

PLAIN_FILE = Path("crds") / f"{PLURAL}.yaml"
CHART_FILE = Path("charts") / "preheat" / "templates" / "crd.yaml"

_COMMENT = "# Generated from the stages by `make crds`. Change those, not this file.\n"
_KEPT = {"annotations": {"helm.sh/resource-policy": "keep"}}
# Settings whose default is stored with the resource: a later Preheat with other defaults does not change its behaviour.
_STORED_DEFAULTS = ("onFailure", "continueOnError", "maxRetries", "timeoutSeconds")


def render() -> Schema:
    """The CustomResourceDefinition as a mapping."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": [SHORT_NAME],
                "categories": ["preheat"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": _columns(),
                    "schema": {"openAPIV3Schema": _resource_schema()},
                }
            ],
        },
    }


def plain_text() -> str:
    """The file for `kubectl apply -f`."""
    return _COMMENT + _yaml(render())


def chart_text() -> str:
    """The chart's template: the same resource behind `crds.install`, kept on uninstall if `crds.keep`."""
    resource = render()
    resource["metadata"] = {**resource["metadata"], **_KEPT}
    text = _yaml(resource)
    if "{{" in text:
        raise ValueError("a text of the schema holds '{{', which Helm would read as its own. Write it otherwise")
    annotations = _yaml({"metadata": _KEPT}).removeprefix("metadata:\n")
    text = text.replace(annotations, f"  {{{{- if .Values.crds.keep }}}}\n{annotations}  {{{{- end }}}}\n", 1)
    return f"{{{{- if .Values.crds.install }}}}\n{_COMMENT}{text}{{{{- end }}}}\n"


def write(root: Path) -> list[Path]:
    """Write both files below the root of the checkout; answers with their paths."""
    texts = {root / PLAIN_FILE: plain_text(), root / CHART_FILE: chart_text()}
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(texts)


def _resource_schema() -> Schema:
    document = Resource.model_json_schema(by_alias=True)
    schema = _structural(document, document.get("$defs", {}))
    # The API server owns these; they are named so that `kubectl explain` lists them.
    header = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
    schema["properties"] = {**header, **schema["properties"]}
    schema["x-kubernetes-validations"] = [
        _rule(
            f"size(self.metadata.name) <= {NAME_LENGTH}",
            f"a pod names its pipeline in a label: give it a name of at most {NAME_LENGTH} characters",
        )
    ]
    spec = schema["properties"]["spec"]
    spec["x-kubernetes-validations"] = _composition_rules()
    _store_defaults(spec["properties"])
    for places in _places_in(spec):
        for name, rules in _identity_rules().items():
            if name in places:
                places[name]["x-kubernetes-validations"] = rules
    spec["properties"]["volume"]["x-kubernetes-validations"] = [
        _rule(
            "!(has(self.emptyDir) && has(self.persistentVolumeClaim))",
            "the bundle is put in one place: keep emptyDir or persistentVolumeClaim",
        ),
        _rule("!has(self.cache) || has(self.persistentVolumeClaim)", CACHE_ON_CLAIM),
    ]
    conditions = schema["properties"]["status"]["properties"]["conditions"]
    conditions.update({"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]})
    return schema


def _places_in(schema: Schema) -> Iterator[Schema]:
    """The properties of every object, at any depth, of which one is a place."""
    properties = schema.get("properties", {})
    if properties.keys() >= {"s3", "http"}:
        yield properties
    for inner in (*properties.values(), *([schema["items"]] if "items" in schema else [])):
        yield from _places_in(inner)


def _structural(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Schema:
    """pydantic's JSON schema as a structural one: inlined, without null, titles and defaults, bounded everywhere."""
    schema = _resolved(schema, definitions)
    if schema.get("additionalProperties") is True:
        return {**_kept(schema, ("description",)), "type": "object", "x-kubernetes-preserve-unknown-fields": True}
    plain = _kept(schema, _KEYWORDS)
    if schema.get("x-kubernetes-int-or-string"):
        return {**plain, "anyOf": [{"type": "integer"}, {"type": "string"}], "pattern": schema["pattern"]}
    if plain.get("type") == "string" and "enum" not in plain:
        plain.setdefault("maxLength", DEFAULT_LENGTH)
    if "pattern" in schema:
        said = mismatch(schema["pattern"], schema.get("description", "")).strip()
        plain["x-kubernetes-validations"] = [_rule(f"self.matches({_literal(schema['pattern'])})", said)]
    if "items" in schema:
        plain["items"] = _structural(schema["items"], definitions)
    if isinstance(schema.get("additionalProperties"), Mapping):
        plain["additionalProperties"] = _structural(schema["additionalProperties"], definitions)
    if "properties" in schema:
        plain["properties"] = {name: _structural(each, definitions) for name, each in schema["properties"].items()}
    return plain


_KEYWORDS = (
    *("type", "description", "format", "enum", "required", "x-kubernetes-int-or-string"),
    *("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "minimum", "maximum"),
)


def _resolved(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema behind `$ref`, and behind `anyOf: [X, null]`; texts at the place of use win."""
    while "$ref" in schema or "anyOf" in schema:
        around = {key: value for key, value in schema.items() if key not in ("$ref", "anyOf", "default")}
        if "$ref" in schema:
            inner = definitions[schema["$ref"].rpartition("/")[2]]
        else:
            [inner] = [each for each in schema["anyOf"] if each.get("type") != "null"]
        schema = {**inner, **around}
    return schema


def _kept(schema: Mapping[str, Any], keywords: Iterable[str]) -> Schema:
    return {key: schema[key] for key in keywords if key in schema}


def _store_defaults(properties: Schema) -> None:
    declared = Resource.model_json_schema(by_alias=True)["$defs"]["Spec"]["properties"]
    for name in _STORED_DEFAULTS:
        properties[name]["default"] = declared[name]["default"]


def _identity_rules() -> dict[str, list[dict[str, str]]]:
    """What sources say about whose credentials they are read with, by the source's name."""
    nobody = "has(self.anonymous) && self.anonymous"
    paid = "has(self.requesterPays) && self.requesterPays"
    return {
        "http": [_rule(f"!({nobody} && has(self.secretRef))", http.ANONYMOUS)],
        "huggingFace": [_rule(f"!({nobody} && has(self.secretRef))", http.ANONYMOUS)],
        "s3": [
            _rule(f"!({nobody} && (has(self.secretRef) || has(self.profile) || ({paid})))", s3.ANONYMOUS),
            _rule("!(has(self.profile) && has(self.secretRef))", s3.ONE_IDENTITY),
        ],
    }


def _composition_rules() -> list[dict[str, str]]:
    families = (composition.SOURCE_NAMES, composition.STRATEGY_NAMES, composition.MODIFIER_NAMES)
    source, strategy, modifier = map(_is_one_of, families)
    merged = "self.stages.exists(s, has(s.merge))"
    average = " || ".join(f"(has(s.{name}) && has(s.{name}.ema))" for name in composition.STRATEGY_NAMES)
    loading = _is_one_of((*composition.STRATEGY_NAMES, *composition.LOADING_NAMES))
    return [
        _rule(_is_one_of(composition.SOURCE_NAMES, "self.stages[0]"), composition.SOURCE_FIRST),
        _rule(f"size(self.stages.filter(s, {source})) <= 1", composition.ONE_SOURCE),
        _rule("size(self.stages.filter(s, has(s.convert))) <= 1", composition.ONE_CONVERSION),
        _rule(f"size(self.stages.filter(s, {strategy})) <= 1", composition.ONE_STRATEGY),
        _rule(
            f"!self.stages.exists(s, {modifier}) || (self.stages.exists(s, {loading}) && "
            f"self.stages.filter(s, ({strategy}) || ({modifier})).map(s, {modifier} ? 1 : 0).isSorted())",
            composition.MODIFIERS_LAST,
        ),
        _rule(
            f"self.stages.map(s, {strategy} || {modifier} ? 1 : 0).isSorted()",
            composition.CHECKS_FIRST,
        ),
        _rule(f"!({merged} && self.stages.exists(s, {_is_one_of(composition.RESUMING_NAMES)}))", NO_TRAINING),
        _rule(f"!({merged} && self.stages.exists(s, {average}))", EMA_OF_EACH),
        _rule(
            "!has(self.resume) || self.stages.all(s, !has(s.prune) || (has(s.prune.permanent) && s.prune.permanent))",
            MASKS,
        ),
    ]


def _is_one_of(names: Iterable[str], stage: str = "s") -> str:
    return " || ".join(f"has({stage}.{name})" for name in names)


def _rule(rule: str, message: str) -> dict[str, str]:
    return {"rule": rule, "message": message}


def _literal(text: str) -> str:
    """A CEL string, raw because patterns are full of backslashes."""
    return f"r'{text}'" if "'" not in text else f'r"{text}"'


def _columns() -> list[dict[str, Any]]:
    ready = '.status.conditions[?(@.type=="Ready")]'
    near = [
        ("Ready", "string", f"{ready}.status", "Whether pods can be given the checkpoint"),
        ("Source", "string", ".status.source.uri", "Where the checkpoint is"),
        ("Loaded", "integer", ".status.pods.loaded", "Pods that received the checkpoint"),
        ("Failed", "integer", ".status.pods.failed", "Pods whose loader failed"),
        ("Age", "date", ".metadata.creationTimestamp", ""),
    ]
    wide = [
        ("Loading", "integer", ".status.pods.loading", "Pods whose loader has not finished"),
        ("Progress", "string", ".status.progress.summary", "How far these are: share, rate, time left"),
        ("Continued", "integer", ".status.pods.continued", "Pods that train without the checkpoint, as onFailure asks"),
        ("Uploads", "string", ".status.uploads.summary", "What became of what pods save: sent, waiting, failing"),
        ("Version", "string", ".status.source.version", "The version that was last read"),
        ("Bytes", "integer", ".status.source.selectedBytes", "Bytes that the pipeline needs of the checkpoint"),
        ("Message", "string", f"{ready}.message", "Why it is ready or not"),
    ]
    return [_column(*column) for column in near] + [{**_column(*column), "priority": 1} for column in wide]


def _column(name: str, kind: str, path: str, description: str) -> dict[str, Any]:
    column = {"name": name, "type": kind, "jsonPath": path}
    return {**column, "description": description} if description else column


class _Dumper(yaml.SafeDumper):
    """Repeats what appears twice, instead of pointing at it with anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        """No value is ever shared."""
        return True


def _yaml(document: Any) -> str:
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
