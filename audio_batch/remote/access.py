"""What a run may do beyond this machine: plain values, ready to cross a process border.

No secret is among them: each process finds its credentials by its own environment, profile or role.
"""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_CACHE_BYTES = 20_000_000_000
DEFAULT_DOWNLOAD_BYTES = 10_000_000_000
DEFAULT_DOWNLOADS = 4


@dataclass(frozen=True, slots=True)
class Access:
    """What may be asked of whom.

    Args:
        allow_http: recordings may be fetched from `http:` and `https:` URLs.
        allow_private: such a URL may lead into a private, loopback or link-local network.
        max_download_bytes: the largest recording that is fetched.
        s3_endpoint: the URL of an S3 service that is not Amazon's.
        aws_profile: a profile of the AWS configuration; None follows the ordinary chain.
    """

    allow_http: bool = False
    allow_private: bool = False
    max_download_bytes: int = DEFAULT_DOWNLOAD_BYTES
    s3_endpoint: str | None = None
    aws_profile: str | None = None
