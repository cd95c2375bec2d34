"""linnaeus' pretrained weights: one file, or a ConvNeXt and a RoPE-ViT stitched into one model.

Which names become which is what linnaeus' code does; here it is written down, so that it can be read and changed.
"""

from __future__ import annotations

import re
from typing import Any

from preheat.migrate.linnaeus.names import named
from preheat.migrate.migration import Draft
from preheat.migrate.settings import Settings
from preheat.migrate.traced import Traced, some

STITCHED = "stitched_convnext_ropevit"
METAFORMER = "metaformer"
#: Of a MetaFormer checkpoint linnaeus takes neither classifiers nor the heads of its metadata.
_METAFORMER_HEADS = r"^head|head\.fc|meta_.*head_[12]|head_[12].*meta_"
_TABLES = r"relative_position_bias_table$"

# A ConvNeXt's first downsampling layer is the model's stem, so those behind it move up.
_CONVNEXT_SELECT = [r"^downsample_layers\.[012]\.", r"^stages\.[01]\."]
_CONVNEXT_RENAME = [
    {"pattern": r"^downsample_layers\.0\.", "replacement": "stem."},
    {"pattern": r"^downsample_layers\.1\.", "replacement": "downsample_layers.0."},
    {"pattern": r"^downsample_layers\.2\.", "replacement": "downsample_layers.1."},
]
_DEPTHS = [5, 2]  # linnaeus' own default
_FIRST_STAGE = 2
_HANDLING = "MODEL.pretrained_ckpt_handling_metadata"


def weights(settings: Settings, draft: Draft) -> None:
    """Pretrained weights, if any are named."""
    convnext, ropevit = settings["MODEL.PRETRAINED_CONVNEXT"], settings["MODEL.PRETRAINED_ROPEVIT"]
    pretrained = settings["MODEL.PRETRAINED"]
    if convnext and ropevit:
        _stitched(settings, draft, convnext, ropevit)
        draft.remark("is not read beside two models that are stitched, as in linnaeus", pretrained)
    elif pretrained:
        _single(settings, draft, pretrained)
    else:
        draft.remark("is one of two models to be stitched, and the other is not named", convnext or ropevit)


def _single(settings: Settings, draft: Draft, pretrained: Traced) -> None:
    draft.stages.append(named(settings, draft, pretrained))
    source = settings["MODEL.PRETRAINED_SOURCE"]
    heads = [source.made(_METAFORMER_HEADS)] if source and str(source) == METAFORMER else []
    handling = _handling(settings, draft)
    strict = settings[f"{_HANDLING}.strict"]
    exclude = heads + handling.pop("exclude", [])
    parameters = some(strict=strict or pretrained.made(False), exclude=exclude or None, **handling)
    draft.stage("weightsOnly", parameters, pretrained)
    if source and str(source) not in (METAFORMER, STITCHED):
        draft.remark("is a mapping of names that linnaeus itself does not have, so nothing is renamed", source)
    _about_code(draft, pretrained, handling)


def _stitched(settings: Settings, draft: Draft, convnext: Traced, ropevit: Traced) -> None:
    source = settings["MODEL.PRETRAINED_SOURCE"]
    depths = settings["MODEL.ROPE_STAGES.DEPTHS"] or ropevit.made(_DEPTHS)
    choice = draft.choice
    first = {"from": named(settings, draft, convnext), "select": _CONVNEXT_SELECT, "rename": _CONVNEXT_RENAME}
    second = {"from": named(settings, draft, ropevit), **_blocks(depths)}
    third = {
        "from": named(settings, draft, ropevit),
        "select": [r"^cls_token$"],
        "rename": [{"pattern": "cls_token", "replacement": "cls_token_2", "match": "exact"}],
    }
    draft.choice = choice  # two files: there is no one choice to compare
    because = (source or convnext).made(None, convnext, ropevit)
    draft.stages.append({"merge": because.made({"sources": [convnext.made(first), ropevit.made(second), third]})})
    parameters = _handling(settings, draft)
    draft.stage("transferLearning", some(skipMismatched=convnext.made(True), **parameters), convnext)
    _about_code(draft, convnext, parameters)


def _blocks(depths: Traced) -> dict[str, Any]:
    """Blocks of the vision transformer in their order: so many for stage 2, those that follow for stage 3."""
    places = [(stage, block) for stage, depth in enumerate(depths.value, _FIRST_STAGE) for block in range(int(depth))]
    rename = [
        {"pattern": rf"^blocks\.{number}\.", "replacement": f"stages.{stage}.{block}."}
        for number, (stage, block) in enumerate(places)
    ]
    numbers = "|".join(str(number) for number in range(len(places)))
    token = {"pattern": "cls_token", "replacement": "cls_token_1", "match": "exact"}
    return {"select": [rf"^blocks\.({numbers})\.", r"^cls_token$"], "rename": depths.made([*rename, token])}


def _handling(settings: Settings, draft: Draft) -> dict[str, Any]:
    """What a model's class says of its pretrained weights, where the configuration repeats it."""
    params, buffers = settings[f"{_HANDLING}.drop_params"], settings[f"{_HANDLING}.drop_buffers"]
    exclude = [params.made(_dropped(str(each))) for each in params.value] if params else []
    exclude += [buffers.made(re.escape(str(each))) for each in buffers.value] if buffers else []
    tables = settings.on(f"{_HANDLING}.interpolate_rel_pos_bias")
    return some(exclude=exclude or None, interpolate=tables.made([_TABLES]) if tables else None)


def _dropped(pattern: str) -> str:
    """linnaeus' own reading of a pattern: its end is the end of a word, unless it is a dot."""
    return pattern if pattern.endswith(".") else pattern + r"\b"


def _about_code(draft: Draft, because: Traced, given: dict[str, Any]) -> None:
    if "exclude" not in given:
        draft.remark(
            "linnaeus' model class names what is dropped of pretrained weights (pretrained_ckpt_handling_metadata), "
            "and its configuration does not: write drop_params as `exclude`, interpolate_rel_pos_bias as "
            rf"`interpolate: ['{_TABLES}']`. A shape that differs is an error that names the tensor",
            because,
        )
