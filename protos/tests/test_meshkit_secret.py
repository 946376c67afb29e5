"""A secret in memory shows only to whoever asks for it."""

from __future__ import annotations

import copy
import logging
import pickle
from dataclasses import dataclass

import pytest

from meshkit.secret import Secret

TEXT = "sk-very-secret"


@dataclass(frozen=True)
class Holder:
    secret: Secret


def test_a_secret_shows_nowhere_but_where_it_is_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    secret = Secret(TEXT)
    logging.getLogger("test").warning("%s %r %s", secret, secret, Holder(secret))
    shown = (repr(secret), str(secret), f"{secret}", f"{secret:>20}", repr([secret]), repr(Holder(secret)), caplog.text)
    assert [text for text in shown if TEXT in text] == []
    assert secret.reveal() == TEXT


def test_secrets_are_equal_by_their_text() -> None:
    assert Secret(TEXT) == Secret(TEXT)
    assert hash(Secret(TEXT)) == hash(Secret(TEXT))
    assert Secret(TEXT) != Secret("other")
    assert Secret(TEXT) != TEXT


def test_a_secret_is_neither_pickled_nor_copied() -> None:
    for leave in (pickle.dumps, copy.deepcopy, copy.copy):
        with pytest.raises(TypeError, match="does not leave"):
            leave(Secret(TEXT))
