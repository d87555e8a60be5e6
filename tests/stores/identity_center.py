"""AWS IAM Identity Center on loopback, as far as a sign-in by SSO goes, and a home with its files.

What botocore asks of it: credentials of a role for an access token, and a new access token for a
refresh token. The answers are as AWS documents them for `GetRoleCredentials` and `CreateToken`.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from stores.servers import Answer, Asked, FaultyServer

START_URL = "https://example.awsapps.com/start"
JSON = [("Content-Type", "application/json")]

_PROCESS = """
import json, sys, pathlib
from datetime import UTC, datetime, timedelta
log = pathlib.Path(sys.argv[1])
with log.open("a") as file:
    file.write("x")
ends = datetime.now(UTC) + timedelta(seconds=float(sys.argv[2]))
print(json.dumps({"Version": 1, "AccessKeyId": f"AKIDNIGHT{log.stat().st_size:04d}",
    "SecretAccessKey": "canary-secret", "SessionToken": "canary-session",
    "Expiration": f"{ends:%Y-%m-%dT%H:%M:%SZ}"}))
"""


class IdentityCenter(FaultyServer):
    """Knows which access tokens are good; hands out numbered keys.

    Attributes:
        good: access tokens that are let in.
        lasting_s: how long a role's credentials last.
        given: keys that were handed out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.good: set[str] = set()
        self.lasting_s = 3600.0
        self.given: list[str] = []

    def answer(self, asked: Asked) -> Answer:
        """Credentials of a role, or a refreshed token."""
        if asked.path == "/federation/credentials":
            if asked.headers.get("x-amz-sso_bearer_token") not in self.good:
                kind = [*JSON, ("x-amzn-ErrorType", "UnauthorizedException")]
                return Answer(401, kind, b'{"message": "Session token not found or invalid"}')
            self.given.append(f"ASIASSO{len(self.given):013d}")
            ends = datetime.now(UTC) + timedelta(seconds=self.lasting_s)
            role = {
                "accessKeyId": self.given[-1],
                "secretAccessKey": "canary-role-secret-0123456789",
                "sessionToken": "canary-role-session-0123456789",
                "expiration": int(ends.timestamp() * 1000),
            }
            return Answer(200, JSON, json.dumps({"roleCredentials": role}).encode())
        if asked.path == "/token" and json.loads(asked.body)["refreshToken"] == "refresh-1":
            self.good.add("access-renewed")
            token = {"accessToken": "access-renewed", "expiresIn": 3600, "tokenType": "Bearer"}
            token["refreshToken"] = "refresh-2"
            return Answer(200, JSON, json.dumps(token).encode())
        kind = [*JSON, ("x-amzn-ErrorType", "InvalidGrantException")]
        return Answer(400, kind, b'{"error": "invalid_grant"}')


@dataclass(slots=True)
class Home:
    """A user's home with AWS files of its own; `environment` makes a process live there.

    Attributes:
        more: further variables.
        apart: whether that has to be a process of its own.
    """

    folder: Path
    more: dict[str, str] = field(default_factory=dict)
    apart: bool = False

    @property
    def environment(self) -> dict[str, str]:
        """Variables of a process in this home: no keys among them."""
        return {
            "HOME": str(self.folder),
            "USERPROFILE": str(self.folder),
            "AWS_CONFIG_FILE": str(self.folder / ".aws" / "config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(self.folder / ".aws" / "credentials"),
            "AWS_EC2_METADATA_DISABLED": "true",
            **self.more,
        }

    def config(self, text: str) -> None:
        """Write the configuration."""
        (self.folder / ".aws").mkdir(parents=True, exist_ok=True)
        (self.folder / ".aws" / "config").write_text(text, encoding="utf-8")

    def sso(self, *, session: bool = True) -> None:
        """A profile `night` that signs in by SSO, as `aws configure sso` writes it."""
        role = "sso_account_id = 123456789012\nsso_role_name = Reader\nregion = eu-central-1\n"
        where = f"sso_start_url = {START_URL}\nsso_region = eu-central-1\n"
        if session:
            own = "sso_registration_scopes = sso:account:access\n"
            text = f"[profile night]\nsso_session = corp\n{role}[sso-session corp]\n{where}{own}"
        else:
            text = f"[profile night]\n{where}{role}"
        self.config(text)

    def numbered_keys(self, *, lasting_s: float) -> Path:
        """A profile `night` whose program gives other keys each time; returns a file as long as
        the number of its calls."""
        log, program = self.folder / "calls", self.folder / "keys.py"
        words = " ".join(f'"{word}"' for word in (sys.executable, program, log, lasting_s))
        self.config(f"[profile night]\ncredential_process = {words}\nregion = eu-central-1\n")
        program.write_text(_PROCESS, encoding="utf-8")
        return log

    def token(
        self, access: str, *, ends_in_s: float, session: bool = True, refresh: str | None = None
    ) -> None:
        """What `aws sso login` leaves behind."""
        ends = datetime.now(UTC) + timedelta(seconds=ends_in_s)
        body = {
            "startUrl": START_URL,
            "region": "eu-central-1",
            "accessToken": access,
            "expiresAt": f"{ends:%Y-%m-%dT%H:%M:%SZ}",
        }
        if refresh is not None:
            later = datetime.now(UTC) + timedelta(days=30)
            body |= {
                "refreshToken": refresh,
                "clientId": "client",
                "clientSecret": "secret",
                "registrationExpiresAt": f"{later:%Y-%m-%dT%H:%M:%SZ}",
            }
        path = self.token_file(session=session)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(body), encoding="utf-8")

    def token_file(self, *, session: bool = True) -> Path:
        """Where botocore looks for the token."""
        name = hashlib.sha1(b"corp" if session else START_URL.encode()).hexdigest()
        return self.folder / ".aws" / "sso" / "cache" / f"{name}.json"
