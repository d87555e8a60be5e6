"""What botocore raises about signing in, as sentences with a remedy.

botocore is imported late: without the extra `s3` none of this can happen.
"""

from __future__ import annotations

from collections.abc import Iterator

from audio_batch.errors import SetupError
from audio_batch.text import redact

_EXPIRED = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"}
)
_UNKNOWN_KEYS = frozenset(
    {"InvalidClientTokenId", "InvalidAccessKeyId", "UnrecognizedClientException", "InvalidToken"}
)
_CLOCK = ("Signature expired", "Signature not yet current", "RequestTimeTooSkewed")
_STILL_EXPIRED = "the refreshed credentials are still expired"  # botocore's RuntimeError


class SignInExpired(SetupError):
    """Credentials were good once.

    Args:
        command: the argument list that renews them by a browser; empty where no such one does.
    """

    def __init__(self, message: str, *, remedy: str, command: tuple[str, ...] = ()) -> None:
        super().__init__(message, remedy=remedy)
        self.command = command


def explain(
    error: BaseException, *, profile: str | None, method: str = "", sso_profile: str | None = None
) -> SetupError | None:
    """What an error of botocore means for whoever signs in; None where it is not about that.

    Args:
        profile: the one in use; None for the default.
        method: where botocore found the credentials, as "sso" or "env"; "" where it has not.
        sso_profile: the profile whose sign-in by SSO the credentials come from, if any.
    """
    from botocore import exceptions as boto

    named = f"the AWS profile {profile}" if profile else "the default AWS profile"
    for each in _chain(error):
        if isinstance(each, (boto.SSOError, boto.TokenRetrievalError)):
            return _sso_expired(sso_profile or profile)
        if isinstance(each, boto.LoginError):
            command = ("aws", "login", *_profile_flag(profile))
            return _expired_by(command, "The sign-in to AWS has expired, or there was none.")
        if isinstance(each, boto.ProfileNotFound):
            return SetupError(
                f"There is no profile {profile or each.kwargs['profile']} in the AWS "
                "configuration.",
                remedy="`aws configure list-profiles` shows them.",
            )
        if isinstance(each, boto.NoCredentialsError):
            return nobody(profile)
        if isinstance(each, boto.PartialCredentialsError):
            return SetupError(
                f"The AWS credentials are not complete: {_text(each)}.",
                remedy="Set both the access key and its secret.",
            )
        if isinstance(each, boto.CredentialRetrievalError):
            return SetupError(
                f"The AWS credentials cannot be had: {_text(each)}.",
                remedy=f"Run what {named} names as its source by hand.",
            )
        if isinstance(each, boto.ClientError):
            return _refused(each, named, method, sso_profile)
        if isinstance(each, RuntimeError) and _STILL_EXPIRED in str(each):
            return expired(named, method, sso_profile)
        if isinstance(each, (boto.ConnectionError, boto.HTTPClientError)):
            return SetupError(
                f"AWS cannot be reached for the credentials of {named}: {_text(each)}.",
                remedy="See to the network, a proxy, or the region of the profile.",
            )
        if isinstance(each, boto.BotoCoreError):
            return SetupError(
                f"The AWS configuration cannot be used: {_text(each)}.",
                remedy=f"Mend {named} in the AWS configuration.",
            )
    return None


def nobody(profile: str | None) -> SetupError:
    """There are no credentials at all."""
    of = f" for profile {profile}" if profile else ""
    return SetupError(
        f"There are no AWS credentials{of}.",
        remedy="Name a profile by --aws-profile, run `aws configure`, or set AWS_ACCESS_KEY_ID "
        "and AWS_SECRET_ACCESS_KEY.",
    )


def expired(named: str, method: str, sso_profile: str | None) -> SignInExpired:
    """Credentials of some source have expired."""
    if sso_profile is not None:
        return _sso_expired(sso_profile)
    if method == "env":
        return SignInExpired(
            "The AWS credentials in the environment have expired.",
            remedy="Set new AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN; "
            "a profile is better for a long run: its credentials are renewed.",
        )
    source = {"custom-process": "The credential_process of ", "assume-role": "The role of "}
    return SignInExpired(
        f"{source.get(method, 'The credentials of ')}{named} gives credentials that have expired."
        if method in source
        else f"The credentials of {named} have expired.",
        remedy="Renew them, then run this again.",
    )


def _sso_expired(profile: str | None) -> SignInExpired:
    command = ("aws", "sso", "login", *_profile_flag(profile))
    of = f" of profile {profile}" if profile else ""
    return _expired_by(command, f"The AWS SSO sign-in{of} has expired, or there was none.")


def _expired_by(command: tuple[str, ...], message: str) -> SignInExpired:
    text = " ".join(f'"{word}"' if " " in word else word for word in command)
    return SignInExpired(
        message,
        remedy=f"Run `{text}`, or give --aws-login to have it run.",
        command=command,
    )


def _profile_flag(profile: str | None) -> tuple[str, ...]:
    return ("--profile", profile) if profile else ()


def _refused(
    error: BaseException, named: str, method: str, sso_profile: str | None
) -> SetupError | None:
    code, text = _code(error), _text(error)
    if any(sign in text or sign == code for sign in _CLOCK):
        return SetupError(
            f"AWS refuses a signature of this machine's time: {text}.",
            remedy="Set the clock; many systems do it by themselves with NTP.",
        )
    if code in _EXPIRED:
        return expired(named, method, sso_profile)
    if code in _UNKNOWN_KEYS or code == "SignatureDoesNotMatch":
        return SetupError(
            f"AWS does not accept the keys of {named}: {text}.",
            remedy="They were deleted, mistyped, or belong to another service (--s3-endpoint).",
        )
    if getattr(error, "operation_name", "") in ("AssumeRole", "AssumeRoleWithWebIdentity"):
        return SetupError(
            f"The role of {named} may not be assumed: {text}.",
            remedy="See to its trust policy, and to who the profile's source is.",
        )
    return SetupError(f"AWS refuses {named}: {text}.", remedy="See to its permissions.")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from, newest first."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _code(error: BaseException) -> str:
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))


def _text(error: BaseException) -> str:
    return redact(" ".join(str(error).split())).rstrip(".")
