"""`docs/reference.md`: every field of the resource, derived from the models that the API server's schema comes from.

Pure: models in, Markdown out. `python -m preheat_operator crds` writes it beside the CustomResourceDefinition.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

from preheat.components import CHECKS, CONVERSIONS
from preheat.construction import camel_case
from preheat.modifiers import MODIFIERS
from preheat.sources import SOURCES
from preheat.stage import CheckpointSource, PipelineStage, SecretVariable
from preheat.strategies import STRATEGIES
from preheat_operator import crd
from preheat_operator.api import GROUP, KIND, LABEL, NAME_LENGTH, SHORT_NAME, VERSION, Resource
from preheat_operator.deaths import FORGET
from preheat_operator.field_rows import Row, rows
from preheat_operator.injection import CONTAINERS, INJECTED, REFUSED, SHIM
from preheat_operator.source_check import CHECK

FILE = Path("docs") / "reference.md"

#: Families of stages in the order in which a pipeline runs them, each with the page that explains what its stages do.
FAMILIES: Sequence[tuple[str, str, Mapping[str, type[PipelineStage]]]] = (
    ("Sources", "sources.md", SOURCES),
    ("Checks", "verify.md", CHECKS),
    ("Conversion", "cli.md#convert", CONVERSIONS),
    ("Strategies", "strategies.md", STRATEGIES),
    ("Modifiers", "modifiers.md", MODIFIERS),
)

#: A resource with every field outside the stages, in YAML.
EXAMPLE = f"""\
apiVersion: {GROUP}/{VERSION}
kind: {KIND}
metadata: {{name: finetune, namespace: team-a}}
spec:
  stages:
  - s3: {{bucket: my-models, key: checkpoints/model-v1.ckpt, region: us-east-1}}
  - verify: {{finite: true}}
  - transferLearning: {{skipMismatched: true}}
  - freezing: {{layers: [encoder]}}
  resume:
    from: {{run: {{root: {{local: {{path: /output}}}}, runId: exp-7}}}}
    select: latest
    strategy: warmStart
    maxFailures: 3
  onFailure: Fail
  continueOnError: false
  maxRetries: 3
  timeoutSeconds: 300
  serviceAccountName: trainer
  refreshSeconds: 3600
  volume:
    persistentVolumeClaim: {{claimName: checkpoints}}
    cache: {{maxSize: 200Gi, podLifetimeSeconds: 1209600}}
  loader:
    resources: {{requests: {{cpu: 500m, memory: 64Mi}}, limits: {{cpu: "2", memory: 256Mi}}}}
    bandwidth: 200M
    deadlineSeconds: 7200
  upload:
    path: /output/exp-7
    to: {{s3: {{bucket: my-runs, key: exp-7/, secretRef: runs-writer}}}}
    verify: checksum
    settleSeconds: 30
    graceSeconds: 600
    bandwidth: 500M
    resources: {{requests: {{cpu: 100m, memory: 64Mi}}, limits: {{cpu: "1", memory: 128Mi}}}}
"""

#: What Preheat reads and writes in the metadata of objects: name, object, who writes it, meaning.
MARKS = (
    (LABEL, "label of a pod", "you", "name of the CheckpointPipeline in the pod's namespace: the pod gets its loader"),
    (
        CONTAINERS,
        "annotation of a pod",
        "you",
        "names of the containers that receive the checkpoint, with commas; default: those that ask for a GPU, else all",
    ),
    (
        SHIM,
        "annotation of a pod",
        "you",
        "`auto`, `manual` or `off`: [what happens in the training process](frameworks.md#annotations-of-the-pod)",
    ),
    (INJECTED, "annotation of a pod", "webhook", "`name@generation` of the pipeline that the loader was made from"),
    (REFUSED, "annotation of a pod", "policy", "why the pod cannot be injected; a pod that has it is not created"),
    (
        FORGET,
        "annotation of a pipeline",
        "you",
        "a time, such as `2026-03-01T12:00:00Z`: processes that began until then "
        "[do not count](resume.md#poisoned) as having died on a checkpoint",
    ),
    (CHECK, "label of a Job and its pod", "controller", "name of the pipeline whose source [is checked](check.md)"),
)

#: What the training container finds in its environment: name, who sets it, meaning.
VARIABLES = (
    ("PREHEAT_BUNDLE", "webhook", "folder of the bundle: `model.safetensors` (or shards), `manifest.json`"),
    ("PREHEAT_SHIM", "webhook", "`auto`, `manual` or `off`, as the annotation"),
    ("PREHEAT_ON_FAILURE", "webhook", "`Fail` or `Continue`, as `spec.onFailure`"),
    ("PREHEAT_POD_UID", "webhook", "the pod's uid, which is part of the paths"),
    ("PYTHONPATH", "webhook", "the shim's folder, before a value of your own; not with `off`"),
    (
        "PREHEAT_TERMINATION_LOG",
        "you",
        "the container's `terminationMessagePath`, where it has another than `/dev/termination-log`: "
        "[what a process leaves there](resume.md#poisoned)",
    ),
    ("PREHEAT_REPORT", "you", "path of the report; default: a file among the temporary ones"),
    ("PREHEAT_RANKS_TIMEOUT", "you", "seconds that a rank [waits for the others](frameworks.md#all-or-none)"),
)

_HEAD = f"""\
<!-- Generated from the models by `make crds`. Change those, not this file. -->

# Reference

Every field of a `{KIND}` (`{GROUP}/{VERSION}`, short name `{SHORT_NAME}`, namespaced), as the API server holds it;
`kubectl explain {SHORT_NAME}.spec` says the same, what is not listed here is refused. What the stages do, and when to
use which: [sources](sources.md), [verify](verify.md), [strategies](strategies.md), [modifiers](modifiers.md).
"""

_READING = f"""\
`.` leads into an object, `[]` into each item of a list. A default in code is a value, any other says what happens
without the field. A quantity is written as everywhere in Kubernetes: `500m`, `128Mi`, `2`. Patterns are those of RE2.
The name of a {KIND} has at most {NAME_LENGTH} characters, because pods name it in a label.
"""

_STATUS = """\
Written by the controller alone. [The status](status.md) says what conditions, reasons and Events mean.
"""

_ENVIRONMENT = "Of a container that receives the checkpoint, which is mounted at `/preheat`, read-only."


def text() -> str:
    """The whole page."""
    schema = Resource.model_json_schema(by_alias=True)
    sections = {
        "Resource": f"```yaml\n{EXAMPLE}```\n\n{_READING}",
        "spec": _fields(rows(schema, "Spec", inner={"stages"})) + _refused(_spec_schema()["properties"]["volume"]),
        "Stages": _stages(schema),
        "How stages go together": _refused(_spec_schema()).lstrip(),
        "status": f"{_STATUS}\n{_fields(rows(schema, 'Status'), filled_in=False)}",
        "kubectl get": _columns(),
        "Labels and annotations": _table(("name", "on", "written by", ""), map(_named, MARKS)),
        "Environment": f"{_ENVIRONMENT}\n\n{_table(('variable', 'set by', ''), map(_named, VARIABLES))}",
    }
    contents = " ·\n".join(f"[{title}](#{title.lower().replace(' ', '-')})" for title in sections)
    return "\n".join([_HEAD, f"{contents}\n", *(f"## {title}\n\n{body}" for title, body in sections.items())])


def write(root: Path) -> Path:
    """Write the page below the root of the checkout; answers with its path."""
    path = root / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text(), encoding="utf-8")
    return path


def _stages(schema: Mapping[str, Any]) -> str:
    index, described = [], []
    for family, page, members in FAMILIES:
        names = [camel_case(name) for name in members]
        index.append((f"[{family}]({page})", ", ".join(f"[`{name}`](#{name.lower()})" for name in names)))
        described += [_stage(name, each, schema) for name, each in zip(names, members.values(), strict=True)]
    return "\n".join([_table(("family", "stages"), index), *described])


def _stage(name: str, component: type[PipelineStage], schema: Mapping[str, Any]) -> str:
    head = f"### {name}\n\n{_line(component.__doc__ or '')}\n\n```yaml\n{_as_item(component.example)}```\n"
    refused = _refused(_spec_schema()["properties"]["stages"]["items"]["properties"][name])
    return "\n".join([head, _fields(rows(schema, component.__name__)) + refused, *_secret_keys(component)])


def _as_item(example: str) -> str:
    """The example as an item of a list, which is what a stage is."""
    first, *others = example.strip("\n").splitlines()
    return "".join(f"{line}\n" for line in [f"- {first}", *(f"  {other}" for other in others)])


def _secret_keys(component: type[PipelineStage]) -> Iterator[str]:
    if issubclass(component, CheckpointSource) and component.secret_variables:
        heads = ("key of the Secret", "variable of the loader", "")
        keys = [(f"`{each.key}`", f"`{each.variable}`", _need(each)) for each in component.secret_variables]
        yield _table(heads, keys)


def _need(secret: SecretVariable) -> str:
    return "required" if secret.required else "optional"


def _refused(schema: Mapping[str, Any]) -> str:
    """What the API server says to values that are fine one by one and not together."""
    said = [f"- {rule['message']}\n" for rule in schema.get("x-kubernetes-validations", ())]
    return "".join(["\nRefused by the API server, with these words:\n\n", *said]) if said else ""


def _spec_schema() -> Mapping[str, Any]:
    spec: Mapping[str, Any] = _version()["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return spec


def _columns() -> str:
    cells = [
        (
            column["name"].upper(),
            "`-o wide`" if column.get("priority") else "always",
            column.get("description", ""),
        )
        for column in _version()["additionalPrinterColumns"]
    ]
    return _table(("column", "shown with", ""), cells)


@cache
def _version() -> Mapping[str, Any]:
    [version] = crd.render()["spec"]["versions"]
    return cast("Mapping[str, Any]", version)


def _fields(found: Iterable[Row], *, filled_in: bool = True) -> str:
    """A table of fields; those that nobody fills in by hand have no default."""
    heads = ("field", "type", *(("default",) if filled_in else ()), "limits", "")
    lines = [(f"`{row.path}`", row.type, *((row.default,) if filled_in else ()), row.limits, row.says) for row in found]
    return _table(heads, lines)


def _named(cells: Sequence[str]) -> Sequence[str]:
    return (f"`{cells[0]}`", *cells[1:])


def _table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in [heads, ["---"] * len(heads), *lines])


def _cell(said: str) -> str:
    return _line(said).replace("|", "\\|")


def _line(said: str) -> str:
    return " ".join(said.split())
