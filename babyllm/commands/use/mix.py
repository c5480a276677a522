"""Weights of domains for data.mix from two runs: what the proxy has learned less well than the reference gets more.

babyllm mix runs/proxy runs/reference mix.yaml, then babyllm pretrain --config=mix.yaml ...
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from babyllm.config.values import Positive, ShareBelow1
from babyllm.errors import UserError

ARGUMENTS = "PROXY_RUN REFERENCE_RUN [OUT.yaml]"


@dataclass(frozen=True)
class Flags:
    """Flags of `babyllm mix`.

    Attributes:
        eta: step size: after each evaluation a weight is multiplied by e to the power of eta times the excess loss.
        smoothing: share of equal weights that is mixed in, so that no domain vanishes.
    """

    eta: Positive = 1.0
    smoothing: ShareBelow1 = 1e-3


def run(flags: Flags, proxy: str, reference: str, out: str | None = None) -> None:
    """Print the weights, with the losses that they follow from, and write them to OUT.yaml as a configuration.

    Raises:
        UserError: a run has no held-out losses by domain, or OUT.yaml is another file or cannot be written.
    """
    from babyllm.pipeline.report import Cell, Report, Table, print_report
    from babyllm.studies.domain_weights import as_configuration, doremi_weights, excess_losses, rounded_mix

    domains, excess = excess_losses(Path(proxy), Path(reference))
    weights = doremi_weights(excess, eta=flags.eta, smoothing=flags.smoothing)
    mix = rounded_mix(domains, weights)
    rows: list[list[Cell]] = [
        [domain, float(excess[0, i]), float(excess[-1, i]), mix[domain]] for i, domain in enumerate(domains)
    ]
    columns = ["domain", "first excess", "last excess", "weight"]
    table = Table("excess: loss of the proxy - loss of the reference, in nats per token", columns, rows)
    print_report(Report(f"mixture by {proxy} and {reference}, {len(excess)} evaluations", tables=[table]))
    comment = f"babyllm mix {proxy} {reference} --eta={flags.eta} --smoothing={flags.smoothing}"
    text = as_configuration(mix, " ".join(comment.split()))
    if out:
        _write(Path(out), text)
    else:
        print(f"\n{text}", end="")


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
