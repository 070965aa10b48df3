"""Vectors from a server that answers as OpenAI's embeddings endpoint does, vLLM's among them.

The key is read from the environment when the first request is made. It goes into one header of
requests to `base_url` and nowhere else: redirects are not followed, and what a server says is
shown without it.

Source: the openai client, versions 2 and 3, which retries with growing waits and heeds
Retry-After up to two minutes.
Differs: answers are read here, so that a vector too few or out of order cannot pass.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from pipeline.config import OpenAI
from pipeline.data.text import well_formed
from pipeline.encoders import Prepared
from pipeline.encoders.answer import read_message, read_vectors
from pipeline.encoders.hub import need
from pipeline.errors import ConfigError, DataError, ResourceError, SpectranError

logger = logging.getLogger(__name__)

BYTES_PER_TOKEN = 4
"""A common estimate for English; texts of other scripts have more bytes and more tokens."""
_SHOWN = 200
"""Characters of a server's words in a message."""


class OpenAIEncoder:
    """The `openai` engine. The client is made, and the key read, by the first `encode`."""

    def __init__(
        self,
        spec: OpenAI,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """clock, sleep: of the spacing of requests, seconds."""
        self.spec = spec
        self.width = spec.width
        self.batch_size = spec.batch_size
        self.batch_tokens = spec.batch_tokens
        self._pace = Pace(spec.requests_per_minute, clock, sleep)
        self._attempts = 0

    def identity(self) -> dict[str, Any]:
        """Return what changes a vector, as far as it can be known from here."""
        return {
            "engine": "openai",
            "base_url": self.spec.base_url.rstrip("/"),
            "model": self.spec.model,
            "dimensions": self.spec.dimensions,
            "normalize": self.spec.normalize,
            "max_characters": self.spec.max_characters,
        }

    def memory_bytes(self) -> int:
        """Return the texts of a request and its answer (a number takes up to 32 bytes)."""
        return self.batch_size * (8 * self.spec.max_characters + 40 * self.width) + 100_000_000

    def prepare(self, texts: Sequence[str]) -> Prepared:
        """Cut the texts and estimate their tokens."""
        limit = self.spec.max_characters
        sent = well_formed([text[:limit] for text in texts])
        sizes = (math.ceil(len(text.encode()) / BYTES_PER_TOKEN) for text in sent)
        tokens = np.fromiter(sizes, np.int64, len(sent))
        cut = np.fromiter((len(text) > limit for text in texts), bool, len(texts))
        return Prepared(sent, tokens, cut, counted=False)

    def encode(self, inputs: Sequence[str]) -> np.ndarray:
        """Return [n, H] float32 of one request.

        Raises ConfigError for what the block must change, ResourceError when the server cannot be
        had after all attempts, DataError for an answer that cannot be used.
        """
        texts = list(inputs)
        rows = self._rows(self._ask(texts), texts)
        self._check(rows, texts)
        if self.spec.normalize:
            exact = rows.astype(np.float64)
            rows = (exact / np.linalg.norm(exact, axis=1, keepdims=True)).astype(np.float32)
        return rows

    # ------------------------------------------------------------ the answer

    def _rows(self, content: bytes, texts: Sequence[str]) -> np.ndarray:
        """Return the vectors of an answer in the order of the texts, float32."""
        try:
            vectors = read_vectors(content, len(texts))
        except json.JSONDecodeError as error:
            raise DataError(
                f"{self._where}: the answer is not JSON: {self._words(error.doc)!r}. Is base_url "
                f"the address of an embeddings server? It mostly ends in /v1."
            ) from None
        except ValueError as error:
            raise DataError(
                f"{self._where}: the answer {error}. The request was not kept; rows of earlier "
                f"ones are. Is this an embeddings server like OpenAI's? A smaller batch_size may "
                f"help."
            ) from None
        widths = sorted({len(vector) for vector in vectors})
        if widths != [self.width]:
            found = ", ".join(map(str, widths))
            raise ConfigError(
                f"{self._where} gives vectors of width {found}, params say {self.width}. Set "
                f"`width` to the model's, or `dimensions` if the model can shorten its vectors."
            )
        with np.errstate(over="ignore"):  # becomes infinity, which is refused
            return np.array(vectors, np.float32)

    def _check(self, rows: np.ndarray, texts: Sequence[str]) -> None:
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if len(bad):
            raise DataError(
                f"{self._where} gave NaN or infinity for {len(bad)} of {len(texts)} texts; first: "
                f"{texts[bad[0]][:80]!r}. The request was not kept. Look at the text, or serve the "
                f"model with another dtype."
            )
        zero = np.flatnonzero(~rows.any(axis=1))
        if self.spec.normalize and len(zero):
            raise DataError(
                f"{self._where} gave only zeros for {len(zero)} of {len(texts)} texts, which "
                f"cannot be normalized; first: {texts[zero[0]][:80]!r}. The request was not kept. "
                f"Look at the server, or set `normalize: false`."
            )

    # ------------------------------------------------------------ the request

    def _ask(self, texts: list[str]) -> bytes:
        """Return the body of the server's answer."""
        client, self._attempts = self._client, 0
        import openai

        dimensions = self.spec.dimensions
        try:
            answer = client.embeddings.with_raw_response.create(
                model=self.spec.model,
                input=texts,
                encoding_format=self.spec.encoding_format,
                # With the request, so that no key from the client's own variables takes its place.
                extra_headers={
                    "Authorization": openai.Omit() if self._key is None else f"Bearer {self._key}"
                },
                **({} if dimensions is None else {"dimensions": dimensions}),
            )
        except openai.APIStatusError as error:
            raise self._refused(error.response) from None
        except openai.APITimeoutError:
            raise self._gone(
                f"no answer within timeout_s: {self.spec.timeout_s}",
                "raise timeout_s or lower batch_size",
            ) from None
        except openai.APIConnectionError as error:
            cause = error.__cause__
            reason = self._words(str(cause)) or type(cause).__name__
            raise self._gone(
                f"the connection failed ({reason})", "see that the server runs at base_url"
            ) from None
        return bytes(answer.http_response.content)

    def _refused(self, response: Any) -> SpectranError:
        """Return the error for a status other than success."""
        status = response.status_code
        words = self._words(read_message(response.content))
        told = f"{self._where} answers {status}"
        said = f"{told}: {words}" if words else told
        match status:
            case 401 | 403:
                # The server's words may hold parts of the key.
                name = self.spec.key_variable
                cure = (
                    "No key was sent: name the environment variable that holds one in key_variable"
                    if name is None
                    else f"See that the environment variable {name} holds a key of this server"
                )
                return ConfigError(f"{told}: access is denied. {cure}.")
            case 404:
                return ConfigError(
                    f"{said}. It knows no such model or no such address. Check `model` and "
                    f"`base_url`, which mostly ends in /v1."
                )
            case 400 | 413 | 422:
                return ConfigError(
                    f"{said}. If a text is too long for the model, lower max_characters "
                    f"({self.spec.max_characters}); if the request is too large, lower batch_size "
                    f"or batch_tokens; if a setting is unknown, see dimensions and "
                    f"encoding_format."
                )
            case _ if 300 <= status < 400:
                place = self._words(response.headers.get("location", "elsewhere"))
                return ConfigError(
                    f"{told}, a redirect to {place}. It is not followed, since the key would go "
                    f"along. If that is the right server, write its address in base_url."
                )
            case 408 | 409 | 429:
                wait = response.headers.get("retry-after")
                asked = f"; it asks to wait {self._words(wait)} (seconds or a date)" if wait else ""
                return self._gone(
                    f"it answers {status}: {words or 'too many requests'}{asked}",
                    "set requests_per_minute to what the server allows",
                )
            case _ if status >= 500:
                return self._gone(f"it answers {status}: {words}", "look at the server's log")
        return ConfigError(f"{said}. Check `model` and `base_url`.")

    def _gone(self, reason: str, cure: str) -> ResourceError:
        return ResourceError(
            f"{self._where}: {reason}; attempts: {self._attempts}. Rows encoded before are kept: "
            f"run the same command again to go on. If it happens again, {cure}."
        )

    @property
    def _where(self) -> str:
        return f"encoder model {self.spec.model!r} at {self.spec.base_url}"

    def _words(self, text: str) -> str:
        """Return what a server said: on one line, shortened, without the key."""
        if self._key:
            text = text.replace(self._key, "[key]")
        text = " ".join(text.split())
        return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."

    @cached_property
    def _key(self) -> str | None:
        """The key. Raises ConfigError when its variable is empty or cannot be sent."""
        name = self.spec.key_variable
        if name is None:
            return None
        key = os.environ.get(name, "").strip()
        if not key:
            raise ConfigError(
                f"{self._where} needs a key: the environment variable {name} (key_variable) is not "
                f"set or empty. Run: export {name}=..."
            )
        if not re.fullmatch("[!-~]+", key):  # the client's own error would show it
            raise ConfigError(
                f"the environment variable {name} (key_variable) holds blanks or characters that "
                f"no key has. Set it to the key alone."
            )
        return key

    @cached_property
    def _client(self) -> Any:
        need("openai", "openai")
        import openai

        client = openai.OpenAI(
            base_url=self.spec.base_url,
            api_key="unused",  # without one, the client refuses to start
            max_retries=self.spec.retries,
            timeout=self.spec.timeout_s,
            http_client=openai.DefaultHttpxClient(
                follow_redirects=False,
                event_hooks={"request": [self._before], "response": [self._after]},
            ),
        )
        # Taken from the environment for OpenAI itself; other servers need not know them.
        if not self.spec.base_url.startswith("https://api.openai.com/"):
            client.organization = client.project = None
        return client

    def _before(self, request: object) -> None:
        """Wait for the turn of an attempt; the client's retries pass here too."""
        self._pace.wait()
        self._attempts += 1

    def _after(self, response: Any) -> None:
        if response.status_code in (408, 409, 429) or response.status_code >= 500:
            logger.warning(
                "%s answers %d (attempt %d of %d)",
                self._where,
                response.status_code,
                self._attempts,
                self.spec.retries + 1,
            )


class Pace:
    """Spaces requests evenly, so that no minute holds more than allowed."""

    def __init__(
        self,
        per_minute: int | None,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self._gap_s = 60 / per_minute if per_minute else 0.0
        self._clock = clock
        self._sleep = sleep
        self._next = -math.inf

    def wait(self) -> None:
        """Return when the next request may start."""
        now = self._clock()
        start = max(now, self._next)
        if start > now:
            self._sleep(start - now)
        self._next = start + self._gap_s
