"""The ledger's settings: environment variables ``TALLYGATE_LEDGER_*``, or keyword arguments."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from ledger_svc.domain.checkpoints import check_origin
from ledger_svc.domain.destinations import Allowed
from ledger_svc.domain.signing import KEY_BYTES, Keyring, from_base64url, load_private_key, load_public_key


class LedgerSettings(BaseSettings):
    """What an operator can set."""

    model_config = SettingsConfigDict(env_prefix="TALLYGATE_LEDGER_", extra="forbid", hide_input_in_errors=True)

    listen: str = "grpc://127.0.0.1:7003"
    """Where to serve: grpc://HOST:PORT or unix:///PATH. Port 0 takes a free one."""

    drain_s: float = Field(30.0, ge=0)
    """Seconds that running calls have to finish after SIGTERM."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least level that is logged."""

    database_url: str = "sqlite+aiosqlite:///tallygate.db"
    """sqlite+aiosqlite:///PATH (relative) or ...////PATH (absolute), or
    postgresql+asyncpg://USER:PASSWORD@HOST/DATABASE.
    """

    database_connections: int = Field(8, ge=1, le=100)
    """At most so many connections for writing (PostgreSQL; SQLite has one) and so many more for reading."""

    database_wait_s: float = Field(10.0, gt=0)
    """Seconds to wait for a free connection, or for another process that writes to the SQLite file, before
    UNAVAILABLE.
    """

    writer_queue: int = Field(4_096, ge=1)
    """Calls that may wait for the writer; one more is refused with UNAVAILABLE."""

    writer_batch: int = Field(256, ge=1, le=2_000)
    """Commands of one transaction at most."""

    takeover_poll_s: float = Field(0.5, gt=0)
    """Seconds between two tries of a replica that stands by to become the writer."""

    peppers: dict[int, SecretStr]
    """Keys under which API keys are hashed, by version, as JSON: {"1": "at least 16 random characters"}. New keys
    take the highest version; the others still verify. There is no default: whoever has the pepper and the database
    can test guesses.
    """

    signing_keys: dict[str, SecretStr]
    """Ed25519 private keys that sign receipts and checkpoints, by kid, as JSON: {"2026-11": "..."}. A key is PEM
    (PKCS #8) or its 32 byte seed in base64url. The greatest kid in the order of text signs; the others stay among the
    public keys, so that what they signed can be verified. There is no default: whoever has the key can make receipts.
    """

    signing_kid: str = ""
    """Signs in place of the greatest kid."""

    retired_keys: dict[str, str] = Field(default_factory=dict)
    """Public keys, by kid, whose private keys are gone: 32 bytes in base64url, as "x" of a JWK."""

    secrets_keys: dict[str, SecretStr] = Field(default_factory=dict)
    """Keys under which secrets that must be read again are stored encrypted (those of webhooks, provider keys), by kid,
    as JSON: {"2026-11": "32 bytes in base64url"}. The greatest kid in the order of text encrypts, all decrypt: to
    rotate, add one and keep the others. None: what needs them can't be made.
    """

    log_origin: str = "localhost/tallygate"
    """Names the log in its checkpoints: a URL without a schema, such as example.com/tallygate. Never changed once the
    log is public: it would be another log.
    """

    checkpoint_interval_s: float = Field(2.0, gt=0)
    """Seconds between two looks whether the log has grown; if so, a checkpoint is signed."""

    usage_interval_s: float = Field(1.0, gt=0)
    """Seconds between two looks for receipts that the sums of usage do not have yet. Questions add those up themselves,
    so this is about their speed and not about what they answer.
    """

    requests_per_minute: int = Field(60, ge=0)
    """The most requests in a minute of a key that has no limit of its own; 0: no limit."""

    tokens_per_minute: int = Field(0, ge=0)
    """The most tokens in a minute of a key that has no limit of its own; 0: no limit."""

    cache_default: Literal["on", "off"] = "on"
    """Whether requests use the cache that don't say, of keys whose organisation, project and own policy don't say
    either."""

    valid_for_ms: int = Field(5_000, ge=0, le=60_000)
    """Milliseconds for which an answer of Authenticate may be kept."""

    billing_provider: Literal["none", "local", "stripe"] = "none"
    """Who takes payments. none: the operator adds credit with `tallygate credit add`. local: nobody has to pay, for
    tests and demonstrations only. stripe: needs the two secrets below.
    """

    stripe_secret_key: SecretStr | None = None
    """Stripe's secret key, "sk_..." or a restricted "rk_..." that may write Checkout Sessions and Refunds."""

    stripe_webhook_secrets: list[SecretStr] = Field(default_factory=list)
    """Signing secrets of the webhook endpoint, as JSON: ["whsec_..."]. Any of them is good, so that they can be
    rotated.
    """

    stripe_api_base: str = "https://api.stripe.com"
    """Where Stripe's API is."""

    payment_timeout_s: float = Field(10.0, gt=0)
    """Seconds for one try of a call of the payment provider."""

    payment_notice_tolerance_s: int = Field(300, ge=1, le=3_600)
    """Seconds that the signature of a payment provider's notice may be old."""

    public_url: str = "http://127.0.0.1:8080"
    """Where clients reach the edge, without a path: a checkout of the local provider is there, and the page that Stripe
    leads back to where a checkout names no other.
    """

    local_payment_secret: SecretStr | None = None
    """Signs the local provider's notices; not given: a random one of each start."""

    sweep_interval_s: float = Field(2.0, gt=0)
    """Seconds between two sweeps for holds past their time."""

    sweep_batch_limit: int = Field(500, ge=1, le=10_000)
    """Holds that one sweep ends at most."""

    revocation_poll_s: float = Field(0.25, gt=0)
    """Seconds between two looks for keys that another replica has revoked, rotated or changed, provider keys too: an
    edge that watches this replica keeps what it knows of such a key for so long, and the time of a look, at most. The
    replica that writes looks at every fourth time: it tells of its own changes as it makes them.
    """

    revocation_queue: int = Field(1_000, ge=1)
    """Changes of keys, provider keys too, that may wait for one watcher before it is told to start again."""

    rewrap_interval_s: float = Field(60.0, gt=0)
    """Seconds between two looks for data keys that are not under the newest of ``secrets_keys``; the first is at once.
    """

    alert_interval_s: float = Field(1.0, gt=0)
    """Seconds between two looks whether spending has reached a threshold of a cap."""

    webhook_poll_s: float = Field(1.0, gt=0)
    """Seconds between two looks for webhooks whose next attempt is due. What is new is sent at once."""

    webhook_timeout_s: float = Field(10.0, gt=0, le=20)
    """Seconds that one attempt may take, from the name to the answer."""

    webhook_failing_days: int = Field(5, ge=1)
    """After so many days in which every attempt failed a webhook is switched off."""

    webhook_retention_days: int = Field(30, ge=1)
    """Days for which the log of deliveries is kept."""

    webhook_min_port: int = Field(1_024, ge=1, le=65_536)
    """The ports from this on may be in the URL of a webhook, and 443; 65536: only 443."""

    webhook_allow_private: list[str] = Field(default_factory=list)
    """Networks that webhooks may be sent to though they are not public, as JSON: ["10.1.0.0/16"]. Whoever has an
    account key reaches every HTTPS service in them with a POST.
    """

    webhook_ca_file: Path | None = None
    """Certificate authorities, in PEM, that webhooks are trusted by beside the machine's."""

    @field_validator("peppers")
    @classmethod
    def _has_strong_peppers(cls, peppers: dict[int, SecretStr]) -> dict[int, SecretStr]:
        if not peppers:
            raise ValueError("at least one pepper is needed")
        if any(version < 1 or len(pepper.get_secret_value()) < 16 for version, pepper in peppers.items()):
            raise ValueError("versions begin at 1 and a pepper has at least 16 characters")
        return peppers

    @field_validator("secrets_keys")
    @classmethod
    def _has_whole_keys(cls, keys: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for kid, key in keys.items():
            if not kid or len(from_base64url(key.get_secret_value().strip())) != KEY_BYTES:
                raise ValueError(f"a key has a kid, and {KEY_BYTES} bytes in base64url")
        return keys

    @field_validator("webhook_allow_private")
    @classmethod
    def _has_networks(cls, networks: list[str]) -> list[str]:
        return [str(ip_network(network)) for network in networks]

    @field_validator("log_origin")
    @classmethod
    def _names_a_log(cls, origin: str) -> str:
        return check_origin(origin)

    @model_validator(mode="after")
    def _has_a_signing_key(self) -> Self:
        self.keyring()
        return self

    @model_validator(mode="after")
    def _has_what_stripe_needs(self) -> Self:
        if self.billing_provider == "stripe" and not (self.stripe_secret_key and self.stripe_webhook_secrets):
            raise ValueError("billing_provider stripe needs stripe_secret_key and stripe_webhook_secrets")
        return self

    def keyring(self) -> Keyring:
        """The keys of the log."""
        return Keyring(
            {kid: load_private_key(key.get_secret_value()) for kid, key in self.signing_keys.items()},
            {kid: load_public_key(key) for kid, key in self.retired_keys.items()},
            signing_kid=self.signing_kid,
        )

    def secrets_key_bytes(self) -> dict[str, bytes]:
        """``secrets_keys``, decoded."""
        return {kid: from_base64url(key.get_secret_value().strip()) for kid, key in self.secrets_keys.items()}

    def webhook_destinations(self) -> Allowed:
        """Where webhooks may be sent."""
        return Allowed(self.webhook_min_port, tuple(map(ip_network, self.webhook_allow_private)))
