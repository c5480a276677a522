"""The findings in words, in English and Chinese, and the pages that explain them."""

from __future__ import annotations

import math
from collections.abc import Mapping

_PAGE = "docs/{language}/troubleshooting/loss.md"
_EN = {
    "start": (
        "the first loss of this new model is {first:.2f}; {expected:.2f} was expected, about the logarithm of its "
        "{vocab:,.0f} ids; look at the targets, the vocabulary and the initial weights"
    ),
    "above-start": (
        "the loss is {now:.2f}, above the {expected:.2f} of a model that knows nothing; the learning rate is too high: "
        "lower plan.peak_lr"
    ),
    "rate-too-low": (
        "the learning rate is too low to train a new model: in {n:,.0f} steps no weight can move more than "
        "{distance:.2g}, and weights begin with a deviation of {std:g}; raise plan.peak_lr (babyllm lr-range suggests "
        "one)"
    ),
    "rises": (
        "the loss rises: {low:.3f} at steps {a:.0f} to {b:.0f}, {now:.3f} at steps {c:.0f} to {d:.0f}; lower "
        "plan.peak_lr, or look at the data read since"
    ),
    "sits": (
        "the loss sits at {level:.3f} from step {a:.0f} to {b:.0f} (change {change:+.3f}, error {error:.3f}) at a "
        "learning rate of {lr:.2g}; let the rate decay, or change it (babyllm lr-range)"
    ),
    "rate-too-high": (
        "the gradient norm has grown {factor:.1f} times from step {a:.0f} to {b:.0f}, to {median:.1f}, while "
        "plan.clip_norm is {clip:g} and the loss does not fall; lower plan.peak_lr"
    ),
    "clipped": (
        "{share:.0%} of the gradients are clipped, and half of them are above {median:.1f} where plan.clip_norm is "
        "{clip:g}; the clipping decides the size of steps more than the gradient does"
    ),
    "too-low": (
        "the training loss is {train:.4f}{bits_text} in the first pass over the data, less than text allows; look for "
        "repeated text, and for answers that stand in the prompt"
    ),
    "below-held-out": (
        "the training loss of {train:.3f} lies far below the held-out loss of {held:.3f} at step {a:.0f}, in the first "
        "pass over the data; the training data may repeat, or the held-out data may be of another kind"
    ),
    "by-heart": (
        "the training loss of {train:.3f} lies far below the held-out loss of {held:.3f} at step {a:.0f}, after "
        "{epoch:.1f} passes over the data; the model learns by heart, and fewer epochs or more data may do better"
    ),
    "held-out-rises": (
        "the held-out loss rises: it was lowest at step {a:.0f} ({low:.3f}) and is {now:.3f} at step {b:.0f}; the step "
        "with the lowest is kept, and --early_stop=3 would end such a run"
    ),
}
_ZH = {
    "start": (
        "新模型的第一个损失是 {first:.2f}，而预期约为 {expected:.2f}（词表 {vocab:,.0f} 的自然对数）；"
        "请检查训练目标、词表和初始权重"
    ),
    "above-start": ("损失是 {now:.2f}，比什么都不会的模型（{expected:.2f}）还高；学习率太高，请调低 plan.peak_lr"),
    "rate-too-low": (
        "学习率太低，训不动新模型：{n:,.0f} 步里任何权重最多移动 {distance:.2g}，而初始权重的标准差是 {std:g}；"
        "请调高 plan.peak_lr（babyllm lr-range 会给出建议）"
    ),
    "rises": (
        "损失在上升：第 {a:.0f} 到 {b:.0f} 步为 {low:.3f}，第 {c:.0f} 到 {d:.0f} 步为 {now:.3f}；"
        "请调低 plan.peak_lr，或检查这段时间读入的数据"
    ),
    "sits": (
        "损失停住了：第 {a:.0f} 到 {b:.0f} 步一直在 {level:.3f}（变化 {change:+.3f}，误差 {error:.3f}），"
        "学习率为 {lr:.2g}；让学习率衰减，或换一个学习率（babyllm lr-range）"
    ),
    "rate-too-high": (
        "第 {a:.0f} 到 {b:.0f} 步梯度范数涨了 {factor:.1f} 倍，到 {median:.1f}，plan.clip_norm 为 {clip:g}，"
        "损失却没有下降；请调低 plan.peak_lr"
    ),
    "clipped": (
        "{share:.0%} 的梯度被裁剪，其中一半超过 {median:.1f}，而 plan.clip_norm 为 {clip:g}；步长主要由裁剪决定"
    ),
    "too-low": (
        "第一遍数据还没读完，训练损失就到了 {train:.4f}{bits_text}，低于文本本身的下限；"
        "请检查文本是否重复、答案是否出现在提示里"
    ),
    "below-held-out": (
        "第一遍数据还没读完，第 {a:.0f} 步的训练损失 {train:.3f} 就远低于留出损失 {held:.3f}；"
        "训练数据可能有重复，或留出数据是另一类文本"
    ),
    "by-heart": (
        "读过 {epoch:.1f} 遍数据，第 {a:.0f} 步的训练损失 {train:.3f} 远低于留出损失 {held:.3f}；"
        "模型在背训练集，减少轮数或增加数据可能更好"
    ),
    "held-out-rises": (
        "留出损失在上升：第 {a:.0f} 步最低（{low:.3f}），第 {b:.0f} 步为 {now:.3f}；"
        "最低的那一步已保留，--early_stop=3 会提前结束这样的训练"
    ),
}
KINDS = tuple(_EN)


def in_words(kind: str, values: Mapping[str, float], language: str = "en") -> str:
    """A finding as one sentence, with its numbers.

    Args:
        kind: one of `KINDS`.
        values: numbers of the sentence, by name.
        language: "en" or "zh".
    """
    texts, bits = (_ZH if language == "zh" else _EN), values.get("bits", math.nan)
    unit = "（每字节 {:.2f} 比特）" if language == "zh" else " ({:.2f} bits per byte)"
    return texts[kind].format(**values, bits_text="" if math.isnan(bits) else unit.format(bits))


def page_of(kind: str, language: str = "en") -> str:
    """The path of the page that explains a finding, with its anchor; without a kind, that of the page on losses."""
    return _PAGE.format(language=language) + (f"#{kind}" if kind else "")
