"""The settings of both services that say who may call, and how a connection is protected."""

from __future__ import annotations

from pathlib import Path

from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings

from runwire.errors import ConfigurationError
from runwire.identity.access import Access
from runwire.identity.authenticator import Authenticator
from runwire.identity.certificates import Certificates
from runwire.identity.limits import Most
from runwire.identity.run_tokens import RunTokens
from runwire.identity.server_certificates import ServerCertificates
from runwire.identity.static_tokens import StaticTokens
from runwire.identity.web_tokens import Provider, WebTokens
from runwire.redaction import masked, one_line
from runwire.settings import Names


class AccessSettings(BaseSettings):
    """See docs/security.md."""

    insecure: bool = False
    """Allow what others could read or do: to listen beyond this machine without TLS, or without authentication."""
    tls_cert_file: Path | None = None
    """The service's certificate and those between it and a root, in PEM: turns on TLS. Read again when it changes."""
    tls_key_file: Path | None = None
    """The key of that certificate, without a password."""
    tls_client_ca_file: Path | None = None
    """Clients must have a certificate that one of these has signed."""
    tokens: Path | None = None
    """Tokens made by `runwire token new`. Read again when it changes."""
    jwt_issuer: str = ""
    """Whose JSON Web Tokens are taken: their `iss`. Empty: nobody's."""
    jwt_audience: str = ""
    """What their `aud` must name."""
    jwt_jwks: str = ""
    """Where the issuer's keys are: a file, or an https URL."""
    jwt_algorithms: Names = ("RS256", "ES256")
    """How they may be signed, comma-separated."""
    jwt_leeway_seconds: float = Field(30.0, ge=0, le=300, allow_inf_nan=False)
    """How much the issuer's clock may differ."""
    jwt_tenant_claim: str = "tenant"
    """The claim that names the tenant. A token without it is refused."""
    jwt_scope_claim: str = "scope"
    """The claim with the scopes: a text with spaces, or a list."""
    certificate_rules: Path | None = None
    """Rules that say whom client certificates stand for. Read again when it changes."""
    run_token_keys: Path | None = None
    """Keys that sign run tokens, made by `runwire token key`; the same for all replicas. Read again when it changes."""
    tenant_starts_per_second: float = Field(100.0, ge=0, allow_inf_nan=False)
    """How many runs, or scorer runs, a tenant may start a second in this process; 0: any number. Nothing is counted
    without authentication."""
    tenant_start_burst: int = Field(1000, ge=1)
    """How many of them may come at once."""
    tenant_streams: int = Field(10_000, ge=0)
    """How many streams a tenant may have in this process; 0: any number."""
    principal_streams: int = Field(5_000, ge=0)
    """How many of them may be of one subject."""
    reflection: bool = True
    """Whether gRPC reflection is served, to everybody."""


def shown(settings: BaseSettings) -> str:
    """All settings, one variable a line, without secrets."""
    prefix = str(settings.model_config.get("env_prefix", ""))
    lines = []
    for name, field in type(settings).model_fields.items():
        value, alias = getattr(settings, name), field.validation_alias
        names = [str(choice) for choice in alias.choices] if isinstance(alias, AliasChoices) else []
        variable = next((each for each in names if each.startswith(prefix)), f"{prefix}{name.upper()}")
        text = ",".join(map(str, value)) if isinstance(value, tuple) else "" if value is None else str(value)
        lines.append(f"{variable}={one_line(masked(text))}")
    return "\n".join(lines)


def access_of(settings: AccessSettings) -> Access:
    """As it is set up. Raises ConfigurationError."""
    run_tokens = RunTokens(settings.run_token_keys) if settings.run_token_keys else None
    authenticator = Authenticator(
        tokens=StaticTokens(settings.tokens) if settings.tokens else None,
        web_tokens=WebTokens(_provider(settings)) if settings.jwt_issuer or settings.jwt_jwks else None,
        certificates=Certificates(settings.certificate_rules) if settings.certificate_rules else None,
        signed=run_tokens,
    )
    return Access(
        authenticator,
        _certificates(settings),
        run_tokens,
        _most(settings),
        insecure=settings.insecure,
        reflection=settings.reflection,
    )


def _most(settings: AccessSettings) -> Most:
    return Most(
        tenant_starts_per_second=settings.tenant_starts_per_second,
        tenant_start_burst=settings.tenant_start_burst,
        principal_streams=settings.principal_streams,
        tenant_streams=settings.tenant_streams,
    )


def _certificates(settings: AccessSettings) -> ServerCertificates | None:
    """Raises ConfigurationError."""
    if (settings.tls_cert_file is None) != (settings.tls_key_file is None):
        raise ConfigurationError("TLS needs both a certificate and its key: set tls_cert_file and tls_key_file")
    if settings.tls_client_ca_file and not settings.tls_cert_file:
        raise ConfigurationError("tls_client_ca_file needs TLS: set tls_cert_file and tls_key_file beside it")
    if settings.certificate_rules and not settings.tls_client_ca_file:
        raise ConfigurationError("certificate_rules need client certificates: set tls_client_ca_file beside it")
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return None
    return ServerCertificates(settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file)


def _provider(settings: AccessSettings) -> Provider:
    return Provider(
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        jwks=settings.jwt_jwks,
        algorithms=settings.jwt_algorithms,
        leeway_seconds=settings.jwt_leeway_seconds,
        tenant_claim=settings.jwt_tenant_claim,
        scope_claim=settings.jwt_scope_claim,
    )
