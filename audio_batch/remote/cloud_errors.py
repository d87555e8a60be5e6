"""What Google's and Azure's libraries say of a failure in ways of their own.

Told by type name and words, so that neither has to be imported; see `failures`.
"""

from __future__ import annotations

from collections.abc import Iterable


def code(error: BaseException) -> str:
    """The code of an error of Azure's, as "ContainerNotFound"; "" for none."""
    said = getattr(error, "error_code", None)
    return str(getattr(said, "value", said) or "")


def is_forbidden(error: BaseException) -> bool:
    """Whether it is a 403 of gcsfs's, which is a plain OSError with these words."""
    return type(error) is OSError and str(error).startswith("Forbidden: ")


def is_signed_out(error: BaseException) -> bool:
    """Whether nobody is signed in, or not any more."""
    if _package(error) == "gcsfs":  # without credentials it asks as nobody: 401 where that is
        return getattr(error, "code", None) == 401  # not enough
    no_answer = getattr(error, "response", None) is None
    return type(error).__name__ == "ClientAuthenticationError" and no_answer


def sign_in(chain: Iterable[BaseException]) -> str:
    """The command that signs in where these errors come from."""
    packages = {_package(error) for error in chain}
    if packages & {"gcsfs", "google"}:
        return "gcloud auth application-default login"
    return "az login" if packages & {"azure", "adlfs"} else "aws sso login"


def _package(error: BaseException) -> str:
    return type(error).__module__.partition(".")[0]
