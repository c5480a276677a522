"""The pictures of docs/*/concepts, each computed by babyllm's own functions, in English and Chinese.

    python -m benchmarks.concept_pictures [--out docs/images/concepts] [--only schedule ...]

Everything is seeded and small, and takes under a minute. A picture is written as NAME.en.svg and NAME.zh.svg.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.concept_figures import SEED, gradient_errors, lora_losses, unigram_losses
from benchmarks.history import ROOT

LANGUAGES = ("en", "zh")
SIZE = (7.0, 3.2)
SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "babyllm",
    "axes.grid": True,
    "grid.alpha": 0.25,
    "font.size": 9.0,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/images/concepts", help="folder of the pictures")
    parser.add_argument("--only", nargs="*", choices=sorted(PICTURES), help="names of pictures to draw; default: all")
    args = parser.parse_args()
    for name in args.only or PICTURES:
        draw(name, args.out)


def draw(name: str, out: Path) -> list[Path]:
    """Draw one picture in every language; returns the files."""
    out.mkdir(parents=True, exist_ok=True)
    data = PICTURES[name]
    return [_drawn(data(language), out / f"{name}.{language}.svg") for language in LANGUAGES]


Draw = Callable[[Any], None]


def _drawn(on: Draw, file: Path) -> Path:
    import warnings

    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        # The letters of an SVG are set by the program that shows it, so no Chinese font is needed here.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=SIZE, layout="constrained")
        on(figure)
        figure.savefig(file, metadata={"Date": None, "Creator": "babyllm"})
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join(line.rstrip() for line in lines) + "\n", encoding="utf-8")
    return file


def _words(language: str) -> Callable[[str, str], str]:
    return lambda en, zh: en if language == "en" else zh


@contextmanager
def _panel(figure: Any, position: Any, x: str, y: str, title: str) -> Iterator[Any]:
    axes = figure.add_subplot(position)
    axes.set(xlabel=x, ylabel=y)
    axes.set_title(title, fontsize=9.0)
    yield axes
    if axes.get_legend_handles_labels()[0] and not axes.get_legend():
        axes.legend(fontsize=8.0, frameon=False)


# --- each picture: what it shows is computed once, and drawn in one language ---


def loss_units(language: str) -> Draw:
    """Nats per token and bits per byte of one text under four vocabularies."""
    w, found = _words(language), unigram_losses()
    sizes, per_token, per_byte = zip(*found, strict=True)

    def on(figure: Any) -> None:
        x = w("size of the vocabulary", "词表大小")
        with _panel(figure, 121, x, w("nats per token", "每 token 的 nats"), w("rises", "越来越高")) as axes:
            axes.plot(sizes, per_token, "o-", color="tab:red")
            axes.set_ylim(0, 1.1 * max(per_token))
        with _panel(figure, 122, x, w("bits per byte", "每字节比特数"), w("falls", "越来越低")) as axes:
            axes.plot(sizes, per_byte, "o-", color="tab:blue")
            axes.set_ylim(0, 1.1 * max(per_byte))

    return on


def global_batch(language: str) -> Draw:
    """The error of a step's gradient against the size of the micro-batch."""
    w, found = _words(language), gradient_errors()
    sizes, means, once = zip(*found, strict=True)

    def on(figure: Any) -> None:
        x, y = (
            w("rows of a micro-batch (of 32 in a step)", "每个微批次的行数（一步共 32 行）"),
            w("relative error of the gradient", "梯度的相对误差"),
        )
        with _panel(figure, 111, x, y, "") as axes:
            axes.plot(
                sizes,
                [max(e, 1e-8) for e in means],
                "o-",
                color="tab:red",
                label=w("mean of the micro-batches' means", "对微批次的平均再取平均"),
            )
            axes.plot(
                sizes,
                [max(e, 1e-8) for e in once],
                "s-",
                color="tab:blue",
                label=w("sums, divided once (babyllm)", "先求和，最后只除一次（babyllm）"),
            )
            axes.set(xscale="log", yscale="log", ylim=(1e-9, 3))
            axes.set_xticks(sizes, [str(size) for size in sizes])
            axes.minorticks_off()

    return on


def schedule(language: str) -> Draw:
    """The learning rate over 1,000 steps, by three plans."""
    from babyllm.schedule import Plan, learning_rate, phase_steps

    w = _words(language)
    four = Plan(steps=1000, peak_lr=1.0)
    plans = {
        w("four phases: 5 %, 75 %, 10 %, 10 %", "四个阶段：5 %、75 %、10 %、10 %"): (four, "tab:blue", "-"),
        w("pretraining's default: 2 %, 98 % decay", "预训练默认：2 %，98 % 衰减"): (
            Plan(steps=1000, peak_lr=1.0, warmup=0.02, cosine=0, stable=0, decay=0.98),
            "tab:red",
            "--",
        ),
        w("WSD: stable at the peak, then decay", "WSD：保持峰值，最后衰减"): (
            Plan(steps=1000, peak_lr=1.0, cosine=0, stable=0.75, stable_lr=1.0, decay=0.2, decay_shape="1-sqrt"),
            "tab:green",
            ":",
        ),
    }

    def on(figure: Any) -> None:
        with _panel(figure, 111, w("step", "步"), w("learning rate / peak", "学习率 / 峰值"), "") as axes:
            for label, (plan, color, style) in plans.items():
                axes.plot([learning_rate(plan, step) for step in range(plan.n_steps)], style, color=color, label=label)
            at = 0
            names = {"warmup": "预热", "cosine": "余弦", "stable": "稳定", "decay": "衰减"}
            for name, steps in phase_steps(four).items():
                axes.text(
                    at + steps / 2, -0.1, w(name, names[name]), ha="center", va="top", fontsize=7.5, color="tab:blue"
                )
                axes.axvline(at, color="tab:blue", linewidth=0.5)
                at += steps
            axes.set_ylim(-0.2, 1.05)
            axes.legend(fontsize=8.0, frameon=False, loc=(0.1, 0.17))

    return on


LENGTHS = (120, 34, 61, 25, 90, 48, 17, 72, 30, 15, 55, 41, 22, 66, 12, 28)


def packing(language: str) -> Draw:
    """Sixteen conversations one to a row, and packed by `babyllm.data.rows.packing.pack`."""
    import numpy as np

    from babyllm.data.rows.packing import pack

    w, lengths = _words(language), np.array(LENGTHS)
    rows = pack(lengths, 128, SEED)
    packed = [members.tolist() for members in np.split(rows.values, rows.offsets[1:-1])]

    def on(figure: Any) -> None:
        for place, (members, label) in enumerate(
            (([[i] for i in range(len(lengths))], w("padded", "填充")), (packed, w("packed", "打包")))
        ):
            used = lengths.sum() / (len(members) * 128)
            title = w(
                f"{label}: {len(members)} rows, {used:.0%} of the places used",
                f"{label}：{len(members)} 行，用了 {used:.0%} 的位置",
            )
            with _panel(figure, 121 + place, w("token of the row", "行内的 token"), w("row", "行"), title) as axes:
                for row, inside in enumerate(members):
                    at = 0
                    for i in inside:
                        axes.barh(row, lengths[i], left=at, height=0.8, color=f"C{i % 10}")
                        at += int(lengths[i])
                    axes.barh(row, 128 - at, left=at, height=0.8, color="0.9")
                axes.set(xlim=(0, 128), ylim=(len(lengths) - 0.4, -0.6))
                axes.grid(visible=False)

    return on


def lora(language: str) -> Draw:
    """Losses of adapters of several ranks for a task whose update has rank 4."""
    w, losses = _words(language), lora_losses()

    def on(figure: Any) -> None:
        title = w("an update of rank 4 is learned from rank 4 on", "任务需要的更新秩为 4：秩达到 4 就能学会")
        with _panel(figure, 111, w("step", "步"), w("squared error", "平方误差"), title) as axes:
            for rank, curve in losses.items():
                axes.plot(curve, label=w(f"rank {rank}", f"秩 {rank}"))
            axes.set(yscale="log", ylim=(1e-6, 2))

    return on


def dpo(language: str) -> Draw:
    """The loss of a pair, and the size of its gradient, over the change of the log-ratio."""
    import torch

    from babyllm.objectives.preference.preference_losses import PREFERENCE_LOSSES, Sides
    from babyllm.objectives.preference.preference_options import PreferenceOptions

    w = _words(language)
    change = torch.linspace(-40, 40, 161)
    chosen = change.clone().requires_grad_()
    sides = Sides(torch.stack([chosen, torch.zeros(161)], 1), torch.zeros(161, 2), torch.ones(161, 2))
    curves = {}
    for beta in (0.05, 0.1, 0.5):
        losses = PREFERENCE_LOSSES["sigmoid"](sides, PreferenceOptions(beta=beta))
        slope = torch.autograd.grad(losses.sum(), chosen, retain_graph=True)[0]
        curves[beta] = (losses.detach().tolist(), (-slope).tolist())

    def on(figure: Any) -> None:
        x = w("chosen less rejected, nats since the reference", "好答案减差答案：相对参考模型的变化（nats）")
        for place, (y, title) in enumerate(
            (("loss", w("loss", "损失")), ("", w("how hard the pair pulls", "这一对的拉力（梯度大小）")))
        ):
            with _panel(figure, 121 + place, x if not place else "", w(y, "损失") if y else "", title) as axes:
                for beta, curve in curves.items():
                    axes.plot(change.tolist(), curve[place], label=f"beta {beta}")
                if not place:
                    axes.set_ylim(0, 6)

    return on


def ppo(language: str) -> Draw:
    """The clipped objective and its slope over the ratio of new to old probability."""
    import torch

    from babyllm.objectives.policy.losses import Answers, clipped
    from babyllm.objectives.policy.policy_options import PolicyOptions

    w = _words(language)
    ratio = torch.linspace(0.4, 1.8, 141)
    curves = {}
    for advantage in (1.0, -1.0):
        one = torch.full_like(ratio, advantage)
        curves[advantage] = clipped(
            ratio, Answers(ratio.log(), torch.zeros(141), one, one > -9), PolicyOptions(loss="ppo")
        ).tolist()

    def on(figure: Any) -> None:
        x = w("new probability of the token / old one", "token 的新概率 / 旧概率")
        titles = {
            1.0: w("advantage +1: raise it, up to 1.2", "优势 +1：提高概率，到 1.2 为止"),
            -1.0: w("advantage -1: lower it, down to 0.8", "优势 -1：降低概率，到 0.8 为止"),
        }
        for place, (advantage, curve) in enumerate(curves.items()):
            with _panel(figure, 121 + place, x, w("loss", "损失") if not place else "", titles[advantage]) as axes:
                axes.plot(ratio.tolist(), curve, color="tab:red")
                axes.axvspan(0.8, 1.2, color="tab:blue", alpha=0.1)
                axes.axvline(1.0, color="0.5", linewidth=0.8)

    return on


def grpo(language: str) -> Draw:
    """The advantages of the right and the wrong answers of a group of eight, by how many are right."""
    import torch

    from babyllm.objectives.policy.advantages import group_advantages

    w, n = _words(language), 8
    rights = list(range(n + 1))
    found = {
        scale: [group_advantages(torch.tensor([1.0] * k + [0.0] * (n - k)), n, scale).tolist() for k in rights]
        for scale in ("group", "none")
    }

    def on(figure: Any) -> None:
        titles = {
            "group": w("divided by the group's spread", "除以组内标准差"),
            "none": w("only centred (scale=none)", "只减均值（scale=none）"),
        }
        for place, (scale, rows) in enumerate(found.items()):
            x = w("right answers of 8", "8 个回答中答对的个数")
            with _panel(figure, 121 + place, x, w("advantage", "优势") if not place else "", titles[scale]) as axes:
                axes.bar(
                    rights,
                    [row[0] if k else 0.0 for k, row in enumerate(rows)],
                    color="tab:blue",
                    label=w("of a right one", "答对的"),
                )
                axes.bar(
                    rights,
                    [row[-1] if k < n else 0.0 for k, row in enumerate(rows)],
                    color="tab:red",
                    label=w("of a wrong one", "答错的"),
                )
                axes.set_xticks(rights)

    return on


PICTURES: dict[str, Callable[[str], Draw]] = {
    "loss-units": loss_units,
    "global-batch": global_batch,
    "schedule": schedule,
    "packing": packing,
    "lora": lora,
    "dpo": dpo,
    "ppo": ppo,
    "grpo": grpo,
}

if __name__ == "__main__":
    main()
