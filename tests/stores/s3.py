"""A bucket behind a faulty proxy, and what a test wants to do to it behind the program's back."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stores.faults import Faults, Rule, Trouble
from stores.moto_process import REGION, SECRETS, MotoServer
from stores.servers import S3Proxy

if TYPE_CHECKING:
    from collections import Counter

BUCKET = "recordings"


@dataclass(slots=True)
class S3:
    """One S3 service: the program asks `endpoint`, a test asks the methods.

    Attributes:
        proxy: what stands between; `inject` and `rule` make it misbehave.
        bucket: a bucket that is there, and empty at first.
    """

    moto: MotoServer
    proxy: S3Proxy
    client: Any
    bucket: str = BUCKET

    @classmethod
    def begin(cls, moto: MotoServer) -> S3:
        """Empty the service, make the bucket, open a proxy of its own."""
        moto.reset()
        client = direct_client(moto)
        client.create_bucket(
            Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION}
        )
        proxy = S3Proxy(moto.port)
        proxy.start()
        return cls(moto, proxy, client)

    def close(self) -> None:
        """Close the proxy."""
        self.proxy.stop()

    @property
    def endpoint(self) -> str:
        """The URL for --s3-endpoint."""
        return self.proxy.url

    @property
    def trouble(self) -> Trouble:
        """What the proxy has seen and does."""
        return self.proxy.trouble

    @property
    def environment(self) -> dict[str, str]:
        """What the program needs to get in; nothing of this machine's own AWS settings."""
        absent = str(Path(__file__).with_name("there-is-no-such-file"))
        return {
            **SECRETS,
            "AWS_CONFIG_FILE": absent,
            "AWS_SHARED_CREDENTIALS_FILE": absent,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL_STS": self.endpoint,
        }

    def inject(self, faults: Faults) -> None:
        """From now on these faults."""
        self.proxy.inject(faults)

    def rule(self, rule: Rule) -> None:
        """From now on also this."""
        self.proxy.rule(rule)

    def counts(self) -> Counter[str]:
        """Requests of the program by kind."""
        return self.trouble.counts()

    def url(self, key: str = "") -> str:
        """`s3://BUCKET/KEY`."""
        return f"s3://{self.bucket}/{key}"

    def put(self, key: str, data: bytes | Path, **more: Any) -> str:
        """Store an object. Returns its URL."""
        body = data.read_bytes() if isinstance(data, Path) else data
        self.client.put_object(Bucket=self.bucket, Key=key, Body=body, **more)
        return self.url(key)

    def get(self, key: str) -> bytes:
        """An object's bytes."""
        return bytes(self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read())

    def delete(self, *keys: str) -> None:
        """Remove objects."""
        for key in keys:
            self.client.delete_object(Bucket=self.bucket, Key=key)

    def keys(self, prefix: str = "") -> list[str]:
        """The keys below a prefix, sorted."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=prefix
        )
        return sorted(item["Key"] for page in pages for item in page.get("Contents", ()))

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        """Every object below a prefix, by its key without the prefix."""
        return {key.removeprefix(prefix): self.get(key) for key in self.keys(prefix)}

    def digests(self, prefix: str = "") -> dict[str, str]:
        """SHA-256 of every object below a prefix, by its key without the prefix."""
        objects = self.objects(prefix)
        return {key: hashlib.sha256(data).hexdigest() for key, data in objects.items()}

    def uploads(self) -> list[str]:
        """Keys of multipart uploads that were begun and neither completed nor aborted."""
        found = self.client.list_multipart_uploads(Bucket=self.bucket)
        return [item["Key"] for item in found.get("Uploads", ())]


_CLIENTS: dict[int, Any] = {}


def direct_client(moto: MotoServer) -> Any:
    """A client that asks the service itself, past every proxy."""
    if moto.port not in _CLIENTS:
        import botocore.session
        from botocore.config import Config

        session = botocore.session.Session()
        session.set_credentials(SECRETS["AWS_ACCESS_KEY_ID"], SECRETS["AWS_SECRET_ACCESS_KEY"])
        _CLIENTS[moto.port] = session.create_client(
            "s3",
            region_name=REGION,
            endpoint_url=moto.url,
            config=Config(s3={"addressing_style": "path"}),
        )
    return _CLIENTS[moto.port]
