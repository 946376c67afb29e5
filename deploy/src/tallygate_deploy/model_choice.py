"""Whether the embedded model is served, and the catalog overlays that follow from it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from catalog_svc.domain import CatalogInvalid, Contents
from catalog_svc.store.documents.origin import DocumentOrigin, seed_document
from router_svc.settings import source_secret
from tallygate_deploy.embedded import EmbeddedModelError, embedded_model
from tallygate_deploy.installation import CannotStartError, StartOptions

LOCAL_MODEL = "local/smollm2-135m-instruct"
LOCAL_SOURCE = "local"
_LOCAL_OVERLAY = """# Written at each start: where the embedded model listens.
sources:
  {source}:
    base_url: {url}
"""


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """What the catalog is started with. ``example``: a model that can be called at once."""

    overlays: list[Path]
    example: str


@asynccontextmanager
async def chosen_models(options: StartOptions) -> AsyncIterator[ModelChoice]:
    """Serves the embedded model inside the block if it was asked for, or if nothing else could be called.

    Raises:
        CannotStartError: the catalog is not right, or the embedded model does not start.
    """
    overlays = [options.catalog] if options.catalog else []
    contents = await _contents(overlays)
    callable_models = _callable_models(contents)
    async with AsyncExitStack() as stack:
        embedded = options.local_model if options.local_model is not None else not callable_models
        if embedded:
            try:
                url = await stack.enter_async_context(embedded_model())
            except EmbeddedModelError as error:
                raise CannotStartError(str(error)) from error
            text = _LOCAL_OVERLAY.format(source=LOCAL_SOURCE, url=url)
            overlays = [options.data.write_private("local-source.yaml", text), *overlays]
            callable_models = [LOCAL_MODEL, *callable_models]
        yield ModelChoice(overlays, callable_models[0] if callable_models else "MODEL")


async def _contents(overlays: list[Path]) -> Contents:
    try:
        return await DocumentOrigin(seed_document(), overlays).read(datetime.now(UTC).date())
    except CatalogInvalid as error:
        raise CannotStartError(f"the catalog is not right:\n{error}") from error


def _callable_models(contents: Contents) -> list[str]:
    """The models of sources that have an address and, where they need one, a key in the environment."""
    configured = {
        source.id
        for source in contents.sources
        if source.base_url and (not source.api_key_env or source_secret(source.api_key_env) is not None)
    }
    return [offer.model_id for offer in contents.offers if offer.source_id in configured and offer.price is not None]
