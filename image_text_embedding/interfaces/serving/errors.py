"""Errors of the service: every failure becomes the JSON that OpenAI's clients read, with the package's own sentences.

| status | when |
| --- | --- |
| 401 | the API key is missing or wrong |
| 403, 411 | the page: another site asks; the size of a body is not stated |
| 404, 405, 415 | no such path or model; wrong method; the body is not said to be JSON |
| 408 | the body did not arrive in time |
| 413 | the body, the number of items or a text is larger than the limits |
| 421 | the Host header has a name that the server does not have |
| 422 | the request, or an item of it, cannot be used |
| 424 | the model cannot compute it |
| 429 | too much is waiting; `Retry-After` says when to try again |
| 503 | the index cannot be reached, or a worker stopped |
| 504 | the request took longer than its deadline |
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from image_text_embedding.foundation.errors import ComputeError, InputError, StoreError, UnknownModelError
from image_text_embedding.foundation.messages import abbreviate

# status -> type and code, as OpenAI's errors have them.
KINDS = {
    400: ("invalid_request_error", "bad_request"),
    401: ("authentication_error", "invalid_api_key"),
    403: ("permission_error", "forbidden"),
    404: ("invalid_request_error", "not_found"),
    405: ("invalid_request_error", "method_not_allowed"),
    408: ("invalid_request_error", "request_timeout"),
    411: ("invalid_request_error", "length_required"),
    413: ("invalid_request_error", "too_large"),
    415: ("invalid_request_error", "unsupported_media_type"),
    421: ("invalid_request_error", "misdirected_request"),
    422: ("invalid_request_error", "invalid_value"),
    424: ("inference_error", "inference_failed"),
    429: ("rate_limit_error", "overloaded"),
    500: ("server_error", "internal_error"),
    503: ("server_error", "unavailable"),
    504: ("server_error", "timeout"),
}

# What pydantic expected, in the package's words. The others keep pydantic's own.
EXPECTED = {
    "missing": "a value",
    "string_type": "a string",
    "string_unicode": "Unicode text",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
}


class ServingError(Exception):
    """A failure with the status that answers it.

    Attributes:
        param: what in the request is wrong, such as "input[3]"; None = the request as a whole.
        retry_after: seconds after which the client may try again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        *,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.retry_after = status, param, retry_after
        self.type, default = KINDS.get(status, KINDS[400] if status < 500 else KINDS[500])
        self.code = code or default

    def fields(self) -> dict[str, Any]:
        """The error as JSON; half of a surrogate pair, which a message may quote, is replaced."""
        message = str(self).encode("utf-8", "replace").decode("utf-8")
        return {"message": message, "type": self.type, "param": self.param, "code": self.code}

    def body(self) -> bytes:
        """The JSON of the answer."""
        return json.dumps({"error": self.fields()}).encode("utf-8")

    def headers(self) -> dict[str, str]:
        """The headers of the answer besides those of every JSON."""
        if self.retry_after is not None:
            return {"Retry-After": str(max(1, math.ceil(self.retry_after)))}
        return {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}


def serving_error(error: Exception, param: str | None = None) -> ServingError:
    """The answer to an exception of the package, or to one that nobody foresaw."""
    if isinstance(error, ServingError):
        return error
    if isinstance(error, UnknownModelError):
        return ServingError(404, str(error), "model", code="model_not_found")
    if isinstance(error, InputError):
        return ServingError(422, str(error), param)
    if isinstance(error, ComputeError):
        # A failure that nobody foresaw has a cause; its words are for the log.
        foreseen = error.__cause__ is None
        return ServingError(424, str(error) if foreseen else "the model could not compute it", param)
    if isinstance(error, StoreError):
        return ServingError(503, "the index cannot be reached", retry_after=5)
    return ServingError(500, "the server failed; its log says why")


def validation_error(errors: Sequence[Mapping[str, Any]]) -> ServingError:
    """The answer to a body that does not have the expected fields, from pydantic's errors; about the first of them."""
    first = errors[0]
    location, kind, got = first["loc"], first["type"], first.get("input")
    names = [each for each in location if not isinstance(each, str) or each.isidentifier()]
    param = "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in names).removeprefix(".")
    where = f"{param}: " if param else ""
    if kind == "value_error":
        return ServingError(422, where + str(first["ctx"]["error"]), param or None)
    if kind == "missing":
        expected = f"{param} in the body" if param else "a JSON object in the body"
        return ServingError(422, f"expected {expected}, got none", param or None)
    expected = EXPECTED.get(kind) or str(first["msg"]).removeprefix("Input should be ")
    return ServingError(422, f"{where}expected {expected}, got {abbreviate(got)}", param or None)
