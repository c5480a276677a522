"""Upload a model with its card to Hugging Face or ModelScope."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from babyllm.publishing.card import CardOptions, Hub

ARGUMENTS = "SOURCE OWNER/NAME"


@dataclass(frozen=True)
class Flags:
    """Flags of `babyllm upload`. The token is in the environment: HF_TOKEN or MODELSCOPE_API_TOKEN.

    Attributes:
        to: hub that the model is uploaded to.
        private: whether a new repository is private; an existing one stays as it is.
        revision: branch to upload to; null takes the main one. Hugging Face creates it if necessary.
        message: message of the commit.
        keep_others: whether files that the repository has already, and this model lacks, may stay.
        dry_run: whether to list the files and their sizes only, without a network.
        card: what the model card says beside the contents of the files.
    """

    to: Hub = "huggingface"
    private: bool = True
    revision: str | None = None
    message: str = "Upload with babyllm"
    keep_others: bool = False
    dry_run: bool = False
    card: CardOptions = field(default_factory=CardOptions)


def run(flags: Flags, source: str, name: str) -> None:
    """Upload the model of a run, step, adapter, Hugging Face or export directory with its card.

    Raises:
        UserError: the model is damaged, or the upload failed; the message says what to do.
    """
    from babyllm.errors import UserError
    from babyllm.publishing.hubs import Upload, send
    from babyllm.publishing.upload import card_license, prepared, require_name

    require_name(name, flags.revision)
    with prepared(Path(source), name, flags.to, flags.card) as folder:
        terms = card_license(folder)
        if flags.to == "modelscope" and terms is None:
            raise UserError("--card.license: ModelScope asks for one, such as --card.license=apache-2.0")
        files = sorted(folder.iterdir())
        for file in files:
            print(f"{file.stat().st_size:>16,}  {file.name}")
        total = f"{len(files)} files, {sum(file.stat().st_size for file in files):,} bytes"
        if flags.dry_run:
            print(f"{total}; nothing was uploaded")
            return
        upload = Upload(folder, name, flags.private, flags.revision, flags.message, flags.keep_others, terms)
        print(f"{total}: {send(flags.to, upload)}")
