"""Uploads through the client libraries of Hugging Face and ModelScope, and what their errors mean.

folder, OWNER/NAME, token from the environment -> repository -> files -> URL

The libraries leave out files that the hub has already, so an upload that failed goes on where it stopped.
"""

from __future__ import annotations

import io
import logging
import re
import sys
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from babyllm.errors import UserError
from babyllm.publishing.card import Hub
from babyllm.runtime.secret import secret

_ADDED_BY_HUBS = ("README.md", "configuration.json")
_STATUS = re.compile(r"\[(\d{3})\]")
_AGAIN = "the same command goes on where it stopped"


@dataclass(frozen=True)
class Upload:
    """One upload.

    Attributes:
        folder: folder whose files are uploaded, all of them.
        name: OWNER/NAME of the repository, which is created if it does not exist.
        private: whether a new repository is private; an existing one stays as it is.
        revision: branch to commit to; None takes the main one.
        message: message of the commit.
        keep_others: whether other files that the repository has may stay beside these.
        license: license of the model, which ModelScope asks for when it creates a repository.
    """

    folder: Path
    name: str
    private: bool
    revision: str | None
    message: str
    keep_others: bool
    license: str | None


@dataclass(frozen=True)
class _Service:
    """A hub, as messages name it.

    Attributes:
        title: name of the hub.
        library: module of its client library.
        package: distribution of that module.
        token: environment variable with the user's token.
        token_page: page where tokens are made.
        endpoint: environment variable with the address of another server, which the library reads.
        send: function that uploads, and returns the model's page.
    """

    title: str
    library: str
    package: str
    token: str
    token_page: str
    endpoint: str
    send: Callable[[Upload, str], str]


def send(hub: Hub, upload: Upload) -> str:
    """Upload a folder; returns the address of the model's page.

    Raises:
        UserError: the library or the token is missing, or the hub refused or could not be reached; the message says
            what to do.
    """
    service = _SERVICES[hub]
    try:
        import_module(service.library)
    except ImportError:
        raise UserError(f'--to={hub} needs {service.package}: pip install "babyllm[upload]"') from None
    token = secret(service.token)
    if token is None:
        raise UserError(
            f"{service.token} is not set; make a token that may write at {service.token_page}, then set this "
            "environment variable to it"
        )
    logging.getLogger(service.library).setLevel(logging.CRITICAL)  # what fails is said once, below
    try:
        return service.send(upload, token)
    except UserError:
        raise
    except Exception as error:  # the libraries raise their own errors and those of two HTTP libraries
        raise UserError(_explanation(error, service, upload).replace(token, "***")) from error


def _to_huggingface(upload: Upload, token: str) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    api = HfApi(token=token, library_name="babyllm")
    if not api.repo_exists(upload.name):
        api.create_repo(upload.name, private=upload.private, exist_ok=True)
    if upload.revision:
        api.create_branch(upload.name, branch=upload.revision, exist_ok=True)
    _require_no_others(upload, api.list_repo_files(upload.name, revision=upload.revision))
    api.upload_folder(
        repo_id=upload.name, folder_path=upload.folder, revision=upload.revision, commit_message=upload.message
    )
    return f"{api.endpoint}/{upload.name}"


def _to_modelscope(upload: Upload, token: str) -> str:
    from modelscope_hub import HubApi, HubConfig
    from modelscope_hub.errors import AlreadyExistsError, HubError

    config = HubConfig(token=token)
    api = HubApi(config)
    visibility = "private" if upload.private else "public"
    try:
        api.create_repo(upload.name, "model", visibility=visibility, license=upload.license)
    except AlreadyExistsError:
        files = api.list_repo_files(upload.name, "model", revision=upload.revision)
        _require_no_others(upload, (file.path for file in files if file.type != "tree"))
    causes: list[str] = []
    try:
        with redirect_stdout(io.StringIO()):  # the library prints a report
            api.upload_folder(
                upload.name,
                "model",
                upload.folder,
                revision=upload.revision,
                commit_message=upload.message,
                use_cache=False,  # of what was uploaded; the hub itself knows that
                disable_tqdm=not sys.stderr.isatty(),
                progress_callback=lambda event: causes.append(event.get("error") or ""),
            )
    except HubError as error:  # its text counts the files, and leaves out why they failed
        raise RuntimeError(next(filter(None, causes), str(error))) from error
    return f"{config.endpoint}/models/{upload.name}"


_SERVICES: dict[Hub, _Service] = {
    "huggingface": _Service(
        title="Hugging Face",
        library="huggingface_hub",
        package="huggingface_hub",
        token="HF_TOKEN",
        token_page="https://huggingface.co/settings/tokens",
        endpoint="HF_ENDPOINT",
        send=_to_huggingface,
    ),
    "modelscope": _Service(
        title="ModelScope",
        library="modelscope_hub",
        package="modelscope-hub",
        token="MODELSCOPE_API_TOKEN",
        token_page="https://modelscope.cn/my/myaccesstoken",
        endpoint="MODELSCOPE_ENDPOINT",
        send=_to_modelscope,
    ),
}


def _require_no_others(upload: Upload, there: Iterable[str]) -> None:
    """Refuse a repository in which the new files would stand beside those of another model."""
    own = {file.name for file in upload.folder.iterdir()}
    others = sorted(n for n in there if n not in own and n not in _ADDED_BY_HUBS and not n.startswith("."))
    if others and not upload.keep_others:
        shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        raise UserError(
            f"{upload.name}: already has files that this model lacks ({shown}); choose another name or --revision, "
            "delete them there, or keep them with --keep_others"
        )


def _explanation(error: Exception, service: _Service, upload: Upload) -> str:
    """What went wrong and what to do, in one line."""
    status, detail = _status(error), _brief(error)
    by_status = {
        401: f"{service.token}: {service.title} does not accept this token; make one that may write at "
        f"{service.token_page}",
        403: f"{service.token}: this token may not write to {upload.name}; use one that may write, and an owner that "
        "is you or an organisation of yours",
        404: f"{upload.name}: {service.title} knows no such owner or branch ({detail}); check the name and --revision",
        409: f"{upload.name}: {service.title} reports a change by somebody else during the upload; {_AGAIN}",
        413: f"{upload.name}: {service.title} refuses files of this size ({detail}); export smaller files",
        429: f"{service.title} allows no more requests for now; wait some minutes: {_AGAIN}",
    }
    by_status[412] = by_status[409]
    if status in by_status:
        return by_status[status]
    if status and status >= 500:
        return f"{service.title} has failed with status {status} ({detail}); try again later: {_AGAIN}"
    if status:
        return f"{upload.name}: {service.title} refuses the upload with status {status} ({detail})"
    if _is_of_network(error):
        return (
            f"{service.title} cannot be reached, or the connection broke ({detail}); check the network, or name a "
            f"mirror in {service.endpoint}: {_AGAIN}"
        )
    return f"{upload.name}: the upload to {service.title} failed ({detail}); {_AGAIN}"


def _chain(error: BaseException) -> list[BaseException]:
    """An error and those that caused it."""
    found: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in found:
        found.append(one)
        one = one.__cause__ or one.__context__
    return found


def _status(error: Exception) -> int | None:
    """The HTTP status that an error or one of its causes has as a value, or in brackets in its text."""
    for one in _chain(error):
        response: Any = getattr(one, "response", None)
        for value in (getattr(one, "status_code", None), getattr(response, "status_code", None)):
            if isinstance(value, int):
                return value
    found = _STATUS.search(str(error))
    return int(found[1]) if found else None


def _is_of_network(error: Exception) -> bool:
    modules = {type(one).__module__.split(".")[0] for one in _chain(error)}
    names = {type(one).__name__ for one in _chain(error)}
    return bool(modules & {"httpx", "httpx2", "requests", "urllib3"} or names & {"NetworkError", "ConnectionError"})


def _brief(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:160] + "..."
