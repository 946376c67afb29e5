"""What the JSON of all account resources has in common."""

from __future__ import annotations

from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from meshkit.money import parse_usd

T = TypeVar("T")


class Body(BaseModel):
    """What a client sends. A field that is not known is refused: it is a slip of the pen, or of another version."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Answer(BaseModel):
    """What is sent to a client."""


class Page(Answer, Generic[T]):
    """A part of a list."""

    object: str = Field(default="list", json_schema_extra={"const": "list"})
    data: list[T]
    has_more: bool = Field(description="There is a next page.")
    next_cursor: str | None = Field(description="Send it as `cursor` to get the next page; null: there is none.")

    @classmethod
    def of(cls, data: list[T], next_page_token: str) -> Page[T]:
        """A page of what the ledger gave."""
        return cls(data=data, has_more=bool(next_page_token), next_cursor=next_page_token or None)


_MAX_NANO_USD = 2**63 - 1
"""What the contracts carry."""


def _is_usd(text: str) -> str:
    if parse_usd(text) > _MAX_NANO_USD:
        raise ValueError("is more than any amount that is kept here")
    return text


Usd = Annotated[
    str,
    Field(
        max_length=40,
        pattern=r"^[0-9]+(\.[0-9]{1,9})?$",
        description='US dollars as a decimal string with up to nine places, such as "12.50". Never a number.',
        examples=["12.50"],
    ),
    AfterValidator(_is_usd),
]
"""An amount that a client sends, not below 0."""


def _no_float(value: object) -> object:
    if isinstance(value, float | bool):
        # pydantic takes a ValueError for a finding, and nothing else
        raise ValueError('send the amount as a string, such as "20.00"; a JSON number may lose digits')  # noqa: TRY004
    return value


SentUsd = Annotated[Usd | Annotated[int, Field(ge=0, le=10**9)], BeforeValidator(_no_float)]
"""An amount that a client sends, as ``Usd``, or as a whole number of dollars."""


def nano_usd_of(amount: str | int) -> int:
    """Of a ``SentUsd``."""
    return parse_usd(str(amount))


ShownUsd = Annotated[str, Field(description="US dollars as a decimal string. Do not parse it as a float.")]
"""An amount that is sent to a client."""


class ErrorDetail(Answer):
    """Why a request was refused."""

    message: str = Field(description="For people: what is wrong, and what to do about it.")
    type: str
    code: str | None = Field(description="For programs.")
    param: str | None = Field(description="The field at fault, where one is.")


class ErrorBody(Answer):
    """OpenAI's form of an error."""

    error: ErrorDetail


def refused(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For OpenAPI: which errors a route may answer with, beside those of all. They name the schema of ``ErrorBody``,
    which ``edge.openapi`` adds, and not the model: FastAPI would make a validator of it for each status of each route,
    a second of every start.
    """
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}
    return {status: {"description": _MEANINGS[status], "content": content} for status in statuses}


_MEANINGS = {
    400: "The request is not what this route takes; `param` names the field.",
    401: "No API key, or one that is not valid.",
    402: "The balance does not cover it.",
    403: "The API key may not do that.",
    404: "There is no such thing in this organisation.",
    405: "The path does not take this method.",
    409: "It conflicts with what is there already.",
    413: "The body is too large.",
    424: "A source refused the provider key that the organisation brought for it.",
    429: "Too many requests, or a cap is reached; `Retry-After` says when to try again.",
    500: "Something went wrong on our side.",
    502: "A service that was asked in turn failed.",
    503: "The service can't answer now; try again in a moment.",
    504: "The answer took too long.",
}
EVERYWHERE = refused(400, 401, 403, 404, 413, 429, 500, 503, 504)
"""What any route of the account may answer with."""
