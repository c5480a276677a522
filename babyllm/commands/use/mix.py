"""Weights of domains for data.mix: from the losses of two runs, or from the sizes and the quality of corpora.

babyllm mix runs/proxy runs/reference mix.yaml       what the proxy has learned less well gets more (DoReMi)
babyllm mix CORPUS... mix.yaml --quality=importance  larger and better domains get more
then babyllm pretrain --config=mix.yaml ...
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from babyllm.config.values import Finite, Positive, Share, ShareBelow1
from babyllm.errors import UserError

if TYPE_CHECKING:
    from babyllm.pipeline.report import Report

ARGUMENTS = "RUN_OR_CORPUS... [OUT.yaml]"


@dataclass(frozen=True)
class Flags:
    """Flags of `babyllm mix`.

    Attributes:
        eta: step size, for runs: after each evaluation a weight is multiplied by e to the power of eta times the excess
            loss.
        smoothing: share of equal weights that is mixed in, for runs, so that no domain vanishes.
        quality: score of documents, for corpora of `babyllm select`: a column of their scores.parquet. null weighs by
            size alone.
        at_least: score from which a document is good; the quality of a domain is then its share of good text. null
            takes the mean score.
        alpha: exponent of the size of a domain, for corpora: 1 for weights in proportion to it, less to raise those of
            small domains, 0 for none of its influence.
    """

    eta: Positive = 1.0
    smoothing: ShareBelow1 = 1e-3
    quality: str | None = None
    at_least: Finite | None = None
    alpha: Share = 1.0


def run(flags: Flags, *places: str) -> None:
    """Print the weights, with what they follow from, and write them to OUT.yaml as a configuration.

    Raises:
        UserError: a run has no held-out losses by domain, a corpus has no such score, or OUT.yaml is another file or
            cannot be written.
    """
    from babyllm.pipeline.report import print_report
    from babyllm.store.corpus import is_corpus
    from babyllm.studies.domain_weights import as_configuration

    if is_corpus(Path(places[0])):
        *corpora, last = places
        out = None if Path(last).is_dir() else last
        report, mix = _by_quality(flags, [*corpora, *([] if out else [last])])
        comment = f"babyllm mix {' '.join(corpora if out else places)} --alpha={flags.alpha}"
        comment += f" --quality={flags.quality}" if flags.quality else ""
        comment += f" --at_least={flags.at_least}" if flags.at_least is not None else ""
    elif len(places) not in (2, 3):
        raise UserError("usage: babyllm mix PROXY_RUN REFERENCE_RUN [OUT.yaml], or babyllm mix CORPUS... [OUT.yaml]")
    else:
        if flags.quality or flags.at_least is not None:
            raise UserError(f"--quality: is for corpora, and {places[0]} is not one; give corpora, or leave it out")
        proxy, reference, out = *places[:2], (places[2] if len(places) == 3 else None)
        report, mix = _by_losses(flags, proxy, reference)
        comment = f"babyllm mix {proxy} {reference} --eta={flags.eta} --smoothing={flags.smoothing}"
    print_report(report)
    text = as_configuration(mix, " ".join(comment.split()))
    if out:
        _write(Path(out), text)
    else:
        print(f"\n{text}", end="")


def _by_losses(flags: Flags, proxy: str, reference: str) -> tuple[Report, dict[str, float]]:
    from babyllm.pipeline.report import Cell, Report, Table
    from babyllm.studies.domain_weights import doremi_weights, excess_losses, rounded_mix

    domains, excess = excess_losses(Path(proxy), Path(reference))
    weights = doremi_weights(excess, eta=flags.eta, smoothing=flags.smoothing)
    mix = rounded_mix(domains, weights)
    rows: list[list[Cell]] = [
        [domain, float(excess[0, i]), float(excess[-1, i]), mix[domain]] for i, domain in enumerate(domains)
    ]
    columns = ["domain", "first excess", "last excess", "weight"]
    table = Table("excess: loss of the proxy - loss of the reference, in nats per token", columns, rows)
    return Report(f"mixture by {proxy} and {reference}, {len(excess)} evaluations", tables=[table]), mix


def _by_quality(flags: Flags, corpora: list[str]) -> tuple[Report, dict[str, float]]:
    import numpy as np

    from babyllm.pipeline.report import Cell, Report, Table
    from babyllm.studies.source_weights import measure, source_weights

    if flags.at_least is not None and flags.quality is None:
        raise UserError(f"--at_least={flags.at_least:g}: is a bound on a score; name it with --quality")
    found = measure(list(map(Path, corpora)), flags.quality, flags.at_least)
    sizes = np.array([domain.size for domain in found.values()], np.float64)
    quality = np.array([domain.quality if flags.quality else 1.0 for domain in found.values()])
    weights = source_weights(sizes, quality, flags.alpha)
    mix = {name: float(f"{weight:.4g}") for name, weight in zip(found, weights.tolist(), strict=True) if weight}
    total = sizes.sum()
    rows: list[list[Cell]] = [
        [name, domain.size, domain.size / total, domain.quality if flags.quality else None, w, w * total / n]
        for (name, domain), w, n in zip(found.items(), weights.tolist(), sizes.tolist(), strict=True)
        if n
    ]
    columns = ["domain", "bytes", "share", "quality", "weight", "epochs"]
    title = "epochs: readings of a domain in a run that reads as much text as there is"
    return Report(f"mixture by {', '.join(corpora)}", tables=[Table(title, columns, rows)]), mix


def _write(file: Path, text: str) -> None:
    from babyllm.files import write_bytes

    try:
        if file.exists() and not file.read_text(encoding="utf-8", errors="replace").startswith("# babyllm mix "):
            raise UserError(f"{file}: exists and was not written by babyllm mix; choose another OUT.yaml")
        file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(file, text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror})") from error
    print(f"\n{file}: a configuration with data.mix, for --config={file}")
