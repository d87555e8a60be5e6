"""Signing in to AWS, asked once before a run, so that it is not found out at 02:00.

Credentials come by botocore's ordinary chain: variables, the profile's keys, SSO, a role, a
`credential_process`, an instance's role. Whatever of these renews itself does so in the middle of
a run as well; nothing is kept or passed on here, every process asks the chain by itself.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from audio_batch.errors import SetupError
from audio_batch.locations import scheme
from audio_batch.remote import urls
from audio_batch.remote.access import Access
from audio_batch.remote.aws_errors import SignInExpired, explain, nobody

__all__ = ["Identity", "SignInExpired", "check", "is_s3", "login", "who"]

S3_SCHEMES = frozenset({"s3", "s3a"})
LOGIN_TIMEOUT_S = 900.0
"""`aws` itself gives a person ten minutes."""

_UNTOLD = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"})
_AMAZON = re.compile(r"\.(amazonaws\.com(\.cn)?|api\.aws)$")
_GLOBAL_REGION = "us-east-1"  # asked who one is, any region will do


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a run is to AWS.

    Attributes:
        arn: "" where nobody could be asked; credentials are there.
        method: where botocore found the credentials: env, sso, assume-role, custom-process, …
        unasked: why nobody was asked, or "".
        ends_at: when a person has to sign in again; None where that is not known.
        refused: whether STS was asked and would not say.
    """

    arn: str
    method: str
    unasked: str = ""
    ends_at: datetime | None = None
    refused: bool = False


def is_s3(location: str) -> bool:
    """Whether it lies in S3, or in what speaks as S3 does."""
    # The first test spares a million paths the second.
    return location.startswith(("s3", "S3")) and scheme(location) in S3_SCHEMES


def check(
    access: Access,
    locations: Iterable[str],
    *,
    sign_in: bool = False,
    notice: Callable[[str], None] = lambda _text: None,
) -> Identity | None:
    """Find out whether a run over these inputs and outputs would be let in; None without S3.

    Args:
        locations: URLs and paths; only whether any is in S3 matters.
        sign_in: where a sign-in has expired, run `aws` in this terminal, then look again.
        notice: is told what is run, and that AWS would not say who this is.

    Raises:
        SignInExpired: it has, and `sign_in` is off, did not help, or nobody is at a terminal.
        SetupError: there are no credentials, or they are refused; the extra `s3` is missing.
    """
    if not any(is_s3(location) for location in locations):
        return None
    try:
        found = who(access)
    except SignInExpired as problem:
        if not (sign_in and problem.command):
            raise
        if sys.stdin is None or not sys.stdin.isatty():
            text = " ".join(problem.command)
            raise SignInExpired(
                f"{problem.message} --aws-login asks a person, and there is no terminal.",
                remedy=f"Run `{text}` on a terminal before.",
            ) from problem
        notice(f"{problem.message} Running `{' '.join(problem.command)}`.")
        login(problem)
        found = who(access)
    if found.refused:
        notice(f"Who the run is to AWS is not known: {found.unasked}. S3 may let it in.")
    return found


def who(access: Access) -> Identity:
    """Ask AWS who this is: at most one request of STS, beside what the credentials need.

    STS of Amazon is not asked about a service that is not Amazon's. A network on which S3 can be
    reached but STS cannot is no error, nor is a policy that forbids the question.

    Raises:
        SetupError: as `check`.
    """
    session = _session(access)
    from botocore import exceptions as boto
    from botocore.parsers import ResponseParserError

    profile = access.aws_profile or session.profile
    method, sso = "", None
    try:
        sso, with_code = _sources(session, profile or "default")
        credentials = session.get_credentials()
        if credentials is None:
            raise nobody(profile)
        method = credentials.method
        if method not in ("sso", "assume-role"):
            sso = with_code = None  # something before the profile in the chain
        if with_code is not None:
            raise _needs_code(with_code)
        credentials.get_frozen_credentials()
        ends_at = _ends_at(session, sso) if sso else None
        unasked = _senseless(session, access)
        if unasked:
            return Identity("", method, unasked, ends_at)
        try:
            arn = str(_client(session, "sts").get_caller_identity()["Arn"])
        except (boto.ConnectionError, boto.HTTPClientError) as error:
            endpoint = urlsplit(_client(session, "sts").meta.endpoint_url).netloc
            why = f"{endpoint} cannot be reached ({type(error).__name__})"
            return Identity("", method, why, ends_at)
        except (ResponseParserError, KeyError):
            return Identity("", method, "the answer of STS broke off", ends_at, refused=True)
        except boto.ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            ailing = status >= 500 or status == 429  # of itself, whoever asks
            if code not in _UNTOLD and not ailing:
                raise
            return Identity("", method, f"STS answers {code}", ends_at, refused=True)
        return Identity(arn, method, "", ends_at)
    except (boto.BotoCoreError, boto.ClientError, RuntimeError) as error:
        explained = explain(error, profile=profile, method=method, sso_profile=sso)
        if explained is None:
            raise
        raise explained from error


def login(problem: SignInExpired) -> None:
    """Run what renews a sign-in, in this terminal; its output goes to standard error.

    Raises:
        SetupError: the program is not installed, or did not succeed.
    """
    text = " ".join(problem.command)
    program = shutil.which(problem.command[0])
    # On Windows the current folder is looked in first: a manifest may have brought an `aws.bat`.
    if program is None or Path(program).absolute().parent == Path.cwd():
        raise SetupError(
            f"{problem.message} `{text}` cannot be run: there is no `{problem.command[0]}`.",
            remedy="Install the AWS command line, version 2, or sign in on another terminal.",
        )
    try:
        done = subprocess.run(
            [program, *problem.command[1:]], stdout=2, timeout=LOGIN_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise SetupError(
            f"{problem.message} Nobody has signed in by `{text}`.", remedy=problem.remedy
        ) from None
    except OSError as error:
        raise SetupError(
            f"`{text}` cannot be run: {error.strerror or error}.", remedy=problem.remedy
        ) from error
    if done.returncode != 0:
        raise SetupError(
            f"{problem.message} `{text}` ended with exit code {done.returncode}.",
            remedy="Run it by hand to see why.",
        )


def endpoint_of(access: Access, places: Iterable[str]) -> str | None:
    """The URL of the S3 service that is asked, where the flag, the environment or the profile names
    one; None: it is Amazon's, or nothing of `places` lies in S3.

    Raises:
        SetupError: the libraries for S3 are not installed.
    """
    if access.s3_endpoint is not None:
        return access.s3_endpoint
    if not any(urls.origin(place).startswith("s3://") for place in places):
        return None
    session = _session(access)
    from botocore.configprovider import ConfiguredEndpointProvider
    from botocore.exceptions import BotoCoreError

    try:
        if session.get_config_variable("ignore_configured_endpoint_urls"):
            return None
        found = ConfiguredEndpointProvider(
            session.full_config, session.get_scoped_config(), client_name="s3"
        ).provide()
    except BotoCoreError:
        return None  # whoever asks for something will be told
    return str(found) if found else None


def _session(access: Access) -> Any:
    try:
        import botocore.session
    except ImportError as error:
        raise SetupError(
            "Reading or writing S3 needs more packages.",
            remedy="pip install 'audio-batch[s3]'",
        ) from error
    return botocore.session.Session(profile=access.aws_profile)


def _client(session: Any, service: str) -> Any:
    from botocore import UNSIGNED
    from botocore.config import Config

    signature = {"signature_version": UNSIGNED} if service == "s3" else {}
    config = Config(
        connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 3}, **signature
    )
    region = session.get_config_variable("region") or _GLOBAL_REGION
    return session.create_client(service, region_name=region, config=config)


def _senseless(session: Any, access: Access) -> str:
    """Why STS is not to be asked, or "": Amazon knows nothing of another service's keys."""
    s3 = access.s3_endpoint or _client(session, "s3").meta.endpoint_url
    if _is_amazons(s3) or not _is_amazons(_client(session, "sts").meta.endpoint_url):
        return ""
    return f"{urlsplit(s3).netloc} is not Amazon's"


def _is_amazons(url: str) -> bool:
    return bool(_AMAZON.search(urlsplit(url).hostname or ""))


def _sources(session: Any, profile: str) -> tuple[str | None, str | None]:
    """Follow a profile to its source: the one that signs in by SSO, and one that wants a code."""
    profiles = session.full_config.get("profiles", {})
    seen: set[str] = set()
    while profile in profiles and profile not in seen:
        seen.add(profile)
        found = profiles[profile]
        if "role_arn" in found and "mfa_serial" in found:
            return None, profile
        if "sso_session" in found or "sso_start_url" in found:
            return profile, None
        profile = found.get("source_profile", "")
    return None, None


def _needs_code(profile: str) -> SetupError:
    return SetupError(
        f"The AWS profile {profile} asks for a code (mfa_serial) whenever its role is assumed: "
        "nobody is there at night to give it.",
        remedy="Export credentials first: `aws configure export-credentials --format env "
        f"--profile {profile}`, or use a profile with SSO.",
    )


def _ends_at(session: Any, profile: str) -> datetime | None:
    """When the sign-in by SSO ends; None where it is renewed by itself, or nobody knows."""
    from botocore.tokens import SSOTokenProvider
    from botocore.utils import JSONFileCache, SSOTokenLoader

    config = session.full_config["profiles"][profile]
    name = config.get("sso_session")
    section = session.full_config.get("sso_sessions", {}).get(name, config)
    load = SSOTokenLoader(cache=JSONFileCache(SSOTokenProvider._SSO_TOKEN_CACHE_DIR))
    with suppress(ValueError, KeyError, TypeError):
        token = load(section["sso_start_url"], session_name=name)
        if "refreshToken" not in token:
            return datetime.fromisoformat(token["expiresAt"].replace("UTC", "Z")).astimezone(UTC)
    return None
