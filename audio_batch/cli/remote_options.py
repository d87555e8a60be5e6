"""The flags of stores, databases and clusters: where recordings, results and workers are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from audio_batch.cli.option import opt

_REMOTE, _DATABASE, _CLUSTER = "Stores and URLs", "Database", "Cluster"

CacheDir = Annotated[
    Path | None,
    opt(
        "Where remote recordings are kept while they are needed \\[the user's cache].",
        "--cache-dir",
        panel=_REMOTE,
    ),
]
CacheSize = Annotated[
    str | None, opt("The most that takes, as 20GB \\[20GB].", "--cache-size", panel=_REMOTE)
]
Downloads = Annotated[
    int | None,
    opt("Recordings fetched at a time, ahead of need \\[4].", "--downloads", panel=_REMOTE),
]
MaxDownload = Annotated[
    str | None, opt("The largest recording to fetch \\[10GB].", "--max-download", panel=_REMOTE)
]
AllowHttp = Annotated[
    bool | None,
    opt("Fetch http: and https: URLs \\[no].", "--allow-http/--no-allow-http", panel=_REMOTE),
]
AllowPrivateAddresses = Annotated[
    bool | None,
    opt(
        "Also from private networks and this machine \\[no].",
        "--allow-private-addresses/--no-allow-private-addresses",
        panel=_REMOTE,
    ),
]
S3Endpoint = Annotated[
    str | None, opt("An S3 service that is not Amazon's.", "--s3-endpoint", panel=_REMOTE)
]
AwsProfile = Annotated[
    str | None, opt("A profile of the AWS configuration.", "--aws-profile", panel=_REMOTE)
]
AwsLogin = Annotated[
    bool | None,
    opt(
        "Run `aws sso login` where its sign-in has expired \\[no].",
        "--aws-login/--no-aws-login",
        panel=_REMOTE,
    ),
]
OutageWait = Annotated[
    str | None,
    opt(
        "Wait so long for a store that is away when all else is done; 0 fails its assets \\[1h].",
        "--outage-wait",
        panel=_REMOTE,
    ),
]
StateDir = Annotated[
    Path | None,
    opt(
        "Journal, lock and kept stages go here \\[.audio-batch in a local --output-dir].",
        "--state-dir",
        panel="Outputs",
    ),
]
ResultsDb = Annotated[
    str | None,
    opt(
        "Also write each outcome to this database (SQLAlchemy URL).",
        "--results-db",
        panel=_DATABASE,
    ),
]
ResultsTable = Annotated[
    str | None, opt("Its table \\[audio_batch_results].", "--results-table", panel=_DATABASE)
]
Shard = Annotated[
    str | None,
    opt("The i-th of n parts of the manifest, as 2/4.", "--shard", panel=_CLUSTER),
]
RayAddress = Annotated[
    str | None,
    opt(
        "The Ray cluster for --engine ray; auto finds one \\[a local one].",
        "--ray-address",
        panel=_CLUSTER,
    ),
]
RayResults = Annotated[
    str | None,
    opt(
        "Who writes the outputs: workers (shared folder, store) or the driver \\[auto].",
        "--ray-results",
        panel=_CLUSTER,
    ),
]
RayWorkers = Annotated[
    int | None,
    opt(
        "GPUs, or nodes of cores, that the cluster's autoscaler is asked for \\[none].",
        "--ray-workers",
        panel=_CLUSTER,
    ),
]
