"""The way to the hub: a staged folder goes up through `huggingface_hub`, errors come back clear.

`huggingface_hub` does the transfer of each file (through Xet where hf_xet is there and LFS
otherwise, with its own retries); here are the target, the comparison that makes a second push a
no-op, and what each refusal means. Only its public functions are used, and the token stays inside.
"""

import fnmatch
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    RepoFile,
    constants,
    get_token,
    is_offline_mode,
)
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError: httpx's or httpx2's
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # documented, not in __all__
    disable_progress_bars,
    validate_repo_id,
)

from medllava.errors import DataError, RemoteError, SetupError
from medllava.progress import Progress
from medllava.store import sha256_of

STALE = (
    "model*.safetensors",
    "model.safetensors.index.json",
    "eval/*/report.json",
    "data/*.parquet",
)
"""Files of an earlier push that go when this one no longer has them."""

_MESSAGE = "Push with medllava"
_OPEN = {"open", "draft"}
_REFUSED = {401, 403}
_LARGE = 1_000_000_000
"""Bytes of a file that is worth a line of its own."""
_AGAIN = "What was sent is kept: run the same command again to go on."
_ADVICE = {
    400: "Read the hub's message; a card with metadata it does not accept is the usual cause.",
    401: "The token is missing, expired or wrong. Run `hf auth login`, or set HF_TOKEN.",
    403: "The token may not write there. Use one with write permission, or your own namespace.",
    404: "There is no such repository or branch for this token. Check the name and who owns it.",
    409: f"The repository changed meanwhile. {_AGAIN}",
    413: "A file or the commit is larger than the hub takes. Save smaller shards and push again.",
    429: f"Too many requests for this account. Wait. {_AGAIN}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a folder goes."""

    repo_id: str
    repo_type: str
    """`model` or `dataset`."""
    private: bool
    must_be_private: bool = False
    """What is sent is of one's own: a repository that everyone sees is refused."""
    gated: Literal["auto", "manual"] | None = None
    """Readers must ask first: the hub lets them in at once, or the owner does."""
    revision: str | None
    create_pr: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """What an upload did."""

    url: str
    commit: str
    revision: str | None
    """Branch or pull request that holds it; None: main."""
    is_changed: bool
    """False: the hub already had every file."""
    num_sent: int
    """Files that were new or different."""


def check_target(repo_id: str, *, revision: str | None, create_pr: bool) -> None:
    """Check name and options before any work.

    Raises:
        SetupError: not a repository name, or a branch and a pull request at once.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise SetupError(f"{repo_id!r} is no repository name: {_one_line(error)}") from None
    if create_pr and revision:
        raise SetupError("--create-pr and --revision exclude each other. Choose one.")


def check_access(target: Target) -> None:
    """Check that there is a token and that it may write there, before hours of hashing.

    A hub that does not answer the question is asked again by the upload itself.

    Raises:
        SetupError: there is no token, or the hub's offline mode is on.
        RemoteError: the token is refused, only reads, or is another owner's.
    """
    if is_offline_mode():
        raise SetupError("HF_HUB_OFFLINE is set: nothing can be sent. Unset it, or use --dry-run.")
    if not get_token():
        raise SetupError("no hub token. Run `hf auth login`, or set HF_TOKEN.")
    with _explained(target.repo_id):
        try:
            who = HfApi().whoami()
        except HfHubHTTPError as error:
            if error.response.status_code in _REFUSED:
                raise
            return
    names = {str(who["name"]), *(str(org["name"]) for org in who.get("orgs") or ())}
    token = (who.get("auth") or {}).get("accessToken") or {}
    owner, _, name = target.repo_id.rpartition("/")
    if token.get("role") == "read":
        raise RemoteError(
            f"hub {constants.ENDPOINT}: the token can only read. Make one that can write at "
            f"{constants.ENDPOINT}/settings/tokens, and set HF_TOKEN."
        )
    if owner and owner not in names and not target.create_pr:
        raise RemoteError(
            f"hub {constants.ENDPOINT}: the token is of {', '.join(sorted(names))} and may not "
            f"write to {owner!r}. Push to {who['name']}/{name}, or add --create-pr."
        )


def upload_folder(folder: Path, target: Target, progress: Progress) -> Upload:
    """Bring the repository to the state of `folder`.

    Files are sent one by one and become visible in one commit at the end; what was sent before an
    interruption is not sent again.

    Raises:
        SetupError: there is no token, or the hub's offline mode is on.
        DataError: it is data of one's own, and everyone sees the repository.
        RemoteError: the hub refused or failed after retries; says what to do next.
    """
    disable_progress_bars()
    api = HfApi()
    with _explained(target.repo_id):
        url = api.create_repo(
            target.repo_id, repo_type=target.repo_type, private=target.private, exist_ok=True
        )
        repo_id = url.repo_id
        if target.private:
            _check_private(api, repo_id, target, progress)
        if target.gated:
            api.update_repo_settings(repo_id, gated=target.gated, repo_type=target.repo_type)
        if target.revision:
            branch = target.revision
            api.create_branch(repo_id, repo_type=target.repo_type, branch=branch, exist_ok=True)
        request = _open_request(api, repo_id, target.repo_type) if target.create_pr else None
        revision = request or target.revision
        remote = _remote_files(api, repo_id, target.repo_type, revision)
        changed = _changed_files(folder, remote)
        stale = _stale_files(folder, remote)
        if not changed and not stale:
            info = api.repo_info(repo_id, repo_type=target.repo_type, revision=revision)
            return Upload(
                url=_address(str(url), revision),
                commit=info.sha or "",
                revision=revision,
                is_changed=False,
                num_sent=0,
            )
        operations = [CommitOperationAdd(name, folder / name) for name in changed]
        where: dict[str, Any] = {
            "repo_type": target.repo_type,
            "revision": revision,
            "create_pr": target.create_pr and request is None,
        }
        _send(api, repo_id, operations, where, progress)
        done = api.create_commit(
            repo_id,
            operations=[*operations, *(CommitOperationDelete(name) for name in stale)],
            commit_message=_MESSAGE,
            **where,
        )
    if done.pr_revision:
        revision = done.pr_revision
    return Upload(
        url=done.pr_url or _address(str(url), revision),
        commit=done.oid,
        revision=revision,
        is_changed=True,
        num_sent=len(changed),
    )


def _check_private(api: HfApi, repo_id: str, target: Target, progress: Progress) -> None:
    """See who reads a repository; one that was there before keeps the visibility it had."""
    if api.repo_info(repo_id, repo_type=target.repo_type).private is True:
        return
    if target.must_be_private:
        raise DataError(
            f"everyone sees the repository {repo_id}, and what would be sent is of your own data. "
            f"Make it private at {constants.ENDPOINT}, or push to another name."
        )
    progress.note(
        f"{repo_id} was there before and is not private: everyone will see what is sent. Add "
        "--public where that is meant."
    )


def _send(
    api: HfApi,
    repo_id: str,
    operations: list[CommitOperationAdd],
    where: dict[str, Any],
    progress: Progress,
) -> None:
    """Send file by file, so that size, rate and what is left can be told."""
    sizes = [operation.upload_info.size for operation in operations]
    progress.start("upload", total=sum(sizes))
    started, sent = time.monotonic(), 0
    for operation, size in zip(operations, sizes, strict=True):
        api.preupload_lfs_files(repo_id, [operation], **where)
        sent += size
        progress.advance(size)
        if size >= _LARGE:
            rate = sent / max(time.monotonic() - started, 1e-9)
            progress.note(
                f"{operation.path_in_repo}: {sent / 1e9:.1f} of {sum(sizes) / 1e9:.1f} GB, "
                f"{rate / 1e6:.0f} MB/s, {(sum(sizes) - sent) / rate / 60:.0f} min left"
            )


def _address(url: str, revision: str | None) -> str:
    """Return the page of the branch that was written."""
    number = (revision or "").removeprefix("refs/pr/")
    if number != (revision or ""):
        return f"{url}/discussions/{number}"
    return f"{url}/tree/{revision}" if revision else url


def _remote_files(
    api: HfApi, repo_id: str, repo_type: str, revision: str | None
) -> dict[str, RepoFile]:
    entries = api.list_repo_tree(repo_id, repo_type=repo_type, revision=revision, recursive=True)
    return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


def _changed_files(folder: Path, remote: dict[str, RepoFile]) -> list[str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in files]
    return [n for n, path in zip(names, files, strict=True) if not _is_same(path, remote.get(n))]


def _is_same(path: Path, remote: RepoFile | None) -> bool:
    if remote is None or remote.size != path.stat().st_size:
        return False
    if remote.lfs:
        return remote.lfs.sha256 == sha256_of(path)
    return remote.blob_id == _git_oid(path.read_bytes())


def _stale_files(folder: Path, remote: dict[str, RepoFile]) -> list[str]:
    gone = [name for name in remote if not (folder / name).is_file()]
    return [name for name in gone if any(fnmatch.fnmatch(name, pattern) for pattern in STALE)]


def _git_oid(content: bytes) -> str:
    """Return git's name of a file's content, by which the hub knows small files."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _open_request(api: HfApi, repo_id: str, repo_type: str) -> str | None:
    """Return the branch of a pull request that an earlier, interrupted push left open."""
    for request in api.get_repo_discussions(repo_id, repo_type=repo_type):
        if request.is_pull_request and request.title == _MESSAGE and request.status in _OPEN:
            return f"refs/pr/{request.num}"
    return None


@contextmanager
def _explained(repo_id: str) -> Iterator[None]:
    """Turn what `huggingface_hub` raises into one sentence with the next step."""
    where = f"hub {constants.ENDPOINT}, {repo_id}"
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise SetupError(f"the hub's offline mode is on ({error}). Unset HF_HUB_OFFLINE.") from None
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        # A failed LFS transfer arrives wrapped in a RuntimeError that only names the file.
        cause = error.__cause__ if isinstance(error, RuntimeError) else error
        if isinstance(cause, HfHubHTTPError):
            raise RemoteError(f"{where}: {_refusal(cause)}") from None
        raise RemoteError(f"{where}: {_one_line(error)}. {_AGAIN}") from None


def _refusal(error: HfHubHTTPError) -> str:
    status = error.response.status_code
    message = f" ({_one_line(error.server_message)})" if error.server_message else ""
    return f"HTTP {status}{message}. {_ADVICE.get(status, f'The hub has trouble. {_AGAIN}')}"


def _one_line(text: object) -> str:
    return " ".join(str(text).split())[:300]
