"""Settings of the server. Flags override the environment (RAQ_SERVER_...), which overrides a TOML file."""

import os
import tomllib
from enum import StrEnum, unique
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from platformdirs import user_data_path
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from raq_proto.channel import MESSAGE_LIMIT_BYTES
from raq_solver.errors import Fault, InvalidInput

ENVIRONMENT_PREFIX: Final = "RAQ_SERVER_"


@unique
class Scope(StrEnum):
    """What a token permits; each scope includes those before it."""

    READ = "read"
    """Get and list profiles."""
    SOLVE = "solve"
    """Put profiles, and call all methods of SolverService."""
    ADMIN = "admin"
    """Delete profiles."""


class TokenEntry(BaseModel):
    """A bearer token, known to the server by its hash only."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, description="who uses it; calls are counted and logged under this name")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="SHA-256 of the token, in hexadecimal digits")
    scope: Scope = Field(default=Scope.SOLVE, description="read, solve or admin; each includes those before it")


def _readable(path: Path) -> Path:
    try:
        path.open("rb").close()
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error.strerror}") from error
    return path


def _url(text: str) -> str:
    try:
        make_url(text)
    except (ArgumentError, ValueError):  # the latter for a port that is no number
        raise ValueError("is not a URL such as sqlite:///FILE or postgresql://HOST/NAME") from None
    return text


File = Annotated[Path, AfterValidator(_readable)]
_MOST_DAYS: Final = 36_525


class ServerConfig(BaseSettings):
    """The settings of a server. `address` is HOST:PORT (port 0: any free one) or unix:PATH."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix=ENVIRONMENT_PREFIX, allow_inf_nan=False)

    address: str = Field(default="127.0.0.1:8433", description="HOST:PORT (port 0: any free one) or unix:PATH")
    metrics_address: str | None = Field(
        default=None, description="HOST:PORT of HTTP /metrics, /live and /ready; none: not served"
    )
    workers: int = Field(default=max(1, os.cpu_count() or 1), ge=1, le=256, description="searches at the same time")
    queue: int = Field(default=64, ge=0, description="calls that may wait for a search; more are refused")
    grace_seconds: float = Field(default=10.0, ge=0, description="time for running calls when the server stops")

    certificate: File | None = Field(default=None, description="TLS certificate chain (PEM); needs private_key")
    private_key: File | None = Field(default=None, description="TLS private key (PEM)")
    client_ca: File | None = Field(
        default=None, description="certificates (PEM) that must have signed clients' certificates"
    )
    tokens: tuple[TokenEntry, ...] = Field(default=(), description="bearer tokens; none: calls need no token")
    allow_anonymous: bool = Field(default=False, description="serve other machines without tokens or client_ca")

    database: Annotated[str, AfterValidator(_url)] = Field(
        default_factory=lambda: f"sqlite:///{user_data_path('raq') / 'server.sqlite'}",
        description="URL of the store: sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME",
    )
    cache_bytes: int = Field(default=64 * 2**20, ge=0, description="memory for proven answers")
    keep_results_days: float = Field(
        default=30, gt=0, le=_MOST_DAYS, description="`clean` removes answers not used for this many days"
    )
    keep_profiles_days: float | None = Field(
        default=None, gt=0, le=_MOST_DAYS, description="the same for profiles; none: kept"
    )
    store_limit_bytes: int = Field(
        default=10 * 2**30, ge=0, description="`clean` then removes the least recently used beyond this"
    )

    message_limit_bytes: int = Field(default=16 * 2**20, ge=2**16, description="largest message accepted")
    profile_limit_bytes: int = Field(default=2 * MESSAGE_LIMIT_BYTES, ge=2**16, description="largest profile stored")
    tensors_limit: int = Field(default=100_000, ge=1, description="most tensors of a problem or profile")
    types_limit: int = Field(default=64, ge=1, description="most quant types of a problem or profile")
    constraints_limit: int = Field(default=10_000, ge=0, description="most constraints of a problem")
    budgets_limit: int = Field(default=10_000, ge=1, description="most points of a sweep, variants of a batch")
    calls_per_client: int = Field(default=64, ge=1, description="most calls of one client at the same time")
    receive_limit_bytes: int = Field(
        default=4 * MESSAGE_LIMIT_BYTES,
        ge=2**16,
        description="memory for requests that are received or not yet answered",
    )
    request_seconds: float = Field(default=120, gt=0, description="longest time for a request to arrive whole")
    search_seconds: float = Field(default=3600, gt=0, description="longest search, whatever time a call allows")
    idle_seconds: float = Field(default=30, gt=0, description="longest pause of a client that sends or reads a stream")

    log_format: Literal["json", "text"] = Field(default="json", description="json or text, on standard error")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="lowest level that is logged"
    )
    tracing: bool = Field(default=False, description="OpenTelemetry traces, configured by OTEL_ variables")


def load_config(file: Path | None = None, **flags: Any) -> ServerConfig:
    """The configuration from flags (None: not given), environment and file.

    Raises InvalidInput with every fault, each naming its setting.
    """

    class WithFile(ServerConfig):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            del dotenv_settings, file_secret_settings
            sources = (init_settings, env_settings)
            return sources if file is None else (*sources, TomlConfigSettingsSource(settings_cls, file))

    try:
        if file is not None:
            _readable(file)
        return WithFile(**{name: value for name, value in flags.items() if value is not None})
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(Fault(str(file), f"not TOML: {error}")) from None
    except ValidationError as error:
        where = f"{file}: " if file else ""
        raise InvalidInput(
            Fault(f"{where}{'.'.join(map(str, each['loc']))}", each["msg"].removeprefix("Value error, "))
            for each in error.errors()
        ) from None
    except ValueError as error:
        raise InvalidInput(Fault("configuration", str(error))) from None


def printed(config: ServerConfig) -> str:
    """The configuration as JSON, with the database's password left out. A comment on each setting is in the docs."""
    url = make_url(config.database).render_as_string(hide_password=True)
    return ServerConfig.model_construct(**{**dict(config), "database": url}).model_dump_json(indent=2)
