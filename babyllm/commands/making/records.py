"""Look through JSON lines and mend them, in a browser: leaf, filter, edit, keep or reject.

Each edit is a new line of FILE.edits.jsonl, on the disk before it counts; the files themselves never change. The page
is for this machine and for whoever has the address that the command prints. --write=OUT writes the resulting file.
"""

from __future__ import annotations

import secrets
import sys
from dataclasses import dataclass
from pathlib import Path

from babyllm.config.values import AnyCount, PathText
from babyllm.errors import UserError

ARGUMENTS = "FILE..."


@dataclass(frozen=True)
class Flags:
    """Flags of `babyllm records`.

    Attributes:
        write: file to write the result to, instead of showing a page; mended records are in it in place of theirs,
            rejected ones are not.
        only_kept: whether the result has only records that were kept.
        host: name or address to listen at.
        port: port to listen at; 0 takes a free one.
    """

    write: PathText | None = None
    only_kept: bool = False
    host: str = "127.0.0.1"
    port: AnyCount = 8300


def run(flags: Flags, *files: str) -> None:
    """Show the page until Ctrl-C, or write the result.

    Raises:
        UserError: a file cannot be read, or the address is not available.
    """
    from babyllm.records.collection import opened, write_result

    if flags.only_kept and not flags.write:
        raise UserError("--only_kept: there is no result to write; give --write=OUT too")
    with opened([Path(file) for file in files]) as collection:
        if flags.write:
            n = write_result(collection, Path(flags.write), flags.only_kept)
            print(f"{flags.write}: {n:,} of {len(collection):,} records")
            return
        try:
            import starlette  # noqa: F401
            import uvicorn  # noqa: F401
        except ImportError as error:
            raise UserError(f'the page needs {error.name}: pip install "babyllm[serve]"') from None
        from babyllm.records.record_server import serve_records
        from babyllm.serve.http.middleware import Access, is_loopback

        if flags.port > 65535:
            raise UserError(f"--port={flags.port}: must be at most 65535")
        if not is_loopback(flags.host):
            print(f"(whoever has the address below can read and edit these files from {flags.host})", file=sys.stderr)
        token = secrets.token_urlsafe(24)

        def tell(url: str, _: object) -> None:
            print(f"{len(collection):,} records: {url}/#token={token} ; Ctrl-C ends it", flush=True)

        serve_records(collection, Access(flags.host, token), flags.port, tell)
