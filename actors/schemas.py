"""Our own types on the OpenAPI page."""

from typing import Any

import msgspec
from fastapi import FastAPI

SCHEMA_REF = "#/components/schemas/{name}"


def add_schemas(api: FastAPI, *kinds: type[msgspec.Struct]) -> None:
    """Put the schemas of our own types into the OpenAPI page: FastAPI knows only pydantic's."""
    _, schemas = msgspec.json.schema_components(kinds, ref_template=SCHEMA_REF)
    page_of = api.openapi

    def openapi() -> dict[str, Any]:
        page = page_of()
        page.setdefault("components", {}).setdefault("schemas", {}).update(schemas)
        return page

    api.openapi = openapi  # type: ignore[method-assign]


def schema_of(*kinds: type[msgspec.Struct]) -> dict[str, Any]:
    """JSON of one of these kinds, for the OpenAPI page."""
    schemas = [{"$ref": SCHEMA_REF.format(name=kind.__name__)} for kind in kinds]
    return {"content": {"application/json": {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}}}
