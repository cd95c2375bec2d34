"""The values that the status is made of, with the bounds that the resource's schema declares for them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Count = Annotated[int, Field(ge=0)]
Name = Annotated[str, Field(max_length=253)]
Line = Annotated[str, Field(max_length=1024)]
Text = Annotated[str, Field(max_length=4096)]
Moment = Annotated[str, Field(max_length=64, json_schema_extra={"format": "date-time"})]
