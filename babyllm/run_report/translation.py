"""The Chinese of a run's report. Texts are English in the code; one without an entry stays as it is.

Titles and reasons such as "skipped: no answer" are translated up to their colon, if they have no entry as a whole.
"""

from __future__ import annotations

import re

from babyllm.runtime.machine import Language

CHINESE = {
    # headings
    "report of a run": "训练报告",
    "What stands out": "值得注意",
    "Curves": "曲线",
    "All other numbers": "其余指标",
    "No curve: the run has fewer than two records.": "没有曲线：这次训练的记录不足两条。",
    "Held-out results": "留出集结果",
    "Nothing was measured on held-out data.": "没有在留出数据上评测过。",
    "Samples over time": "训练中的样例",
    "The run wrote no samples.": "这次训练没有写出样例。",
    "Shown in part; samples.jsonl has all.": "只显示一部分，全部样例在 samples.jsonl 里。",
    "Comparison": "与其他训练比较",
    "Data": "数据",
    "The run's directory does not record the size of its data.": "训练目录里没有数据规模的记录。",
    "No licence is recorded with these data.": "这些数据没有登记许可证。",
    "Skipped, and why": "跳过的部分与原因",
    "What the run said": "训练中的提示",
    "Left out in the middle:": "中间省略：",
    "Cost": "开销",
    "Command and configuration": "命令与配置",
    "All values that differ from the defaults; folders are cut to their last part.": "列出与默认值不同的全部设置；"
    "绝对路径只保留最后一段。",
    "Machine and versions": "机器与版本",
    "Unknown: there is no environment.json.": "未知：没有 environment.json。",
    "What is missing": "缺少的部分",
    "Written by babyllm from the files of the run.": "由 babyllm 根据训练目录中的文件写成。",
    "characters": "字",
    "step": "步",
    # figures
    "loss": "训练损失",
    "rollout/reward": "奖励",
    "all": "全部",
    "held-out bpb": "留出集每字节比特数",
    "held-out loss": "留出集损失",
    "held-out accuracy": "留出集准确率",
    "held-out reward": "留出集奖励",
    "rollout/answer_kl": "与参考模型的 KL（每个回答，nat）",
    "lr": "学习率",
    "grad_norm": "梯度范数（裁剪前）",
    "tokens_per_s": "每秒 token 数",
    # facts
    "state": "状态",
    "finished": "已完成",
    "stopped": "已停止",
    "ended by an error": "因错误结束",
    "not ended: it is running or was killed": "未结束：仍在训练，或进程被杀死",
    "unknown": "未知",
    "stage": "阶段",
    "parameters": "参数量",
    "tokens read": "读过的 token",
    "reward of the last answers": "最近回答的奖励",
    "training loss": "训练损失",
    "time in steps": "训练步用时",
    "steps skipped": "跳过的步",
    "losses that were not finite": "非有限的损失",
    "times gone back": "回退次数",
    "times that micro-batches were halved": "微批减半次数",
    "damaged lines in metrics.jsonl": "metrics.jsonl 中损坏的行",
    "damaged lines in samples.jsonl": "samples.jsonl 中损坏的行",
    "metrics beyond those that are kept": "未保留的指标数",
    "from the first record to the last, pauses included": "从第一条记录到最后一条（含暂停）",
    "GPU hours": "GPU 小时",
    "processor hours, one per process": "处理器小时（每进程计一份）",
    "waiting for data, share": "等待数据的占比",
    "tokens per second, mean": "平均每秒 token 数",
    "tokens per second": "每秒 token 数",
    "floating-point operations, estimated": "浮点运算数（估算）",
    "model FLOPs utilisation, share": "算力利用率（MFU）",
    "peak memory of a process, GB": "单进程内存峰值（GB）",
    "energy": "能耗",
    "not measured": "未测量",
    "cpu": "处理器",
    "cores": "核数",
    "gpus": "GPU",
    "world_size": "进程数",
    "threads": "每进程线程数",
    "platform": "系统",
    "commit": "提交",
    # tables
    "figures": "主要数字",
    "last step": "最后一步",
    "last held-out results of each run, ± standard error": "各训练最后一次留出集结果（± 标准误）",
    "settings that differ": "不同的设置",
    "domain or task": "领域或任务",
    "measure": "指标",
    "last": "最后",
    "best": "最好",
    "s.e.": "标准误",
    "step of the best": "最好的一步",
    "size by domain or task": "各领域或任务的规模",
    "data sets": "数据集",
    "data set": "数据集",
    "trained on": "用于训练",
    "held out": "留出",
    "not drawn": "未抽取",
    "unused": "未使用",
    "licence": "许可证",
    "source": "来源",
    "not stated": "未注明",
    # missing parts
    "configuration": "配置",
    "command": "命令",
    "environment": "环境",
    "metrics": "指标",
    "samples": "样例",
    "messages": "提示",
    "checkpoints": "检查点",
    "shape of the model": "模型形状",
    "report of the data": "数据报告",
    "curves of reference": "参考曲线",
    "findings on the loss": "对损失的判断",
    # reports of the commands that made the data
    "tokenize": "切分为 token",
    "tokenizer": "分词器",
    "Deduplication": "去重",
    "conversations": "对话",
    "pairs": "偏好对",
    "records": "记录",
    "documents": "文档",
    "documents read": "读入文档",
    "documents kept": "保留文档",
    "documents before": "去重前文档",
    "documents after": "去重后文档",
    "documents removed": "删去文档",
    "documents changed": "改动文档",
    "documents in a cluster": "簇内文档数",
    "characters read": "读入字符",
    "characters kept": "保留字符",
    "characters removed": "删去字符",
    "bytes read": "读入字节",
    "bytes kept": "保留字节",
    "bytes removed": "删去字节",
    "records that could not be read": "无法读取的记录",
    "lines of code and tables, left as they are": "原样保留的代码与表格行",
    "characters in such lines": "这些行中的字符",
    "removed": "已删去",
    "clusters": "簇",
    "compared by": "比较单位",
    "threshold": "阈值",
    "vocabulary": "词表大小",
    "tokens by domain": "各领域的 token",
    "Filters, in their order (share: of documents read, removed)": "各过滤器，按先后（占比：删去文档占读入文档）",
    "Why documents were removed": "文档被删去的原因",
    "Domains (share: of bytes kept)": "各领域（占比：占保留字节）",
    "Removed by": "删去方式",
    "Removed of each domain": "各领域删去的文档",
    "Which domain repeats which": "哪个领域重复了哪个",
    "Clusters by size": "簇的大小",
    "learned from": "学习所用",
    "characters per token, held-out documents": "每 token 字符数（留出文档）",
    "bytes per token, held-out documents": "每 token 字节数（留出文档）",
    "used, by task": "各任务用到的",
    "what became of the conversations": "对话的去向",
    "what became of the pairs": "偏好对的去向",
    "exact repetitions dropped": "丢弃的完全重复",
    "skipped": "跳过",
    "rejected": "不合格",
    "field left out": "未用的字段",
    "filter": "过滤器",
    "reason": "原因",
    "share": "占比",
    "split": "划分",
    "domain": "领域",
    "task": "任务",
    "tokens": "token",
    "bytes": "字节",
    "turns": "轮次",
    "supervised": "参与训练的 token",
    "whole": "完整",
    "dropped": "丢弃旧轮次",
    "truncated": "截断",
    "repeated": "重复",
    "turns lost": "丢失的轮次",
    "method": "方法",
    "repetitions": "重复",
    "in evaluation sets": "在评测集中",
    "left": "余下",
    "removed from": "删自",
    "stands in": "保留于",
    "bytes/token": "字节/token",
    "tokens/character": "token/字符",
}

STAGES = {
    "pretrain": "预训练",
    "sft": "监督微调",
    "reward": "奖励模型",
    "classifier": "分类器",
    "dpo": "偏好优化",
    "ppo": "强化学习 PPO",
    "grpo": "强化学习 GRPO",
}
"""The stages in Chinese."""


def step_text(step: float, language: Language) -> str:
    """A step with its number."""
    return f"第 {step:,.0f} 步" if language == "zh" else f"step {step:,.0f}"


def translated(text: str, language: Language) -> str:
    """A text of the report in a language; one that the table lacks stays English."""
    if language == "en":
        return _ENGLISH.get(text, text)
    if text in CHINESE:
        return CHINESE[text]
    if text.startswith("Cleaning of "):
        return f"清洗 {text.removeprefix('Cleaning of ')}"
    head, colon, tail = text.partition(": ")
    if colon and head in CHINESE and len(head) < 60:
        return f"{CHINESE[head]}：{tail}"
    if re.fullmatch(r"\d+ (min|s|d|h)( \d\d (s|h))?", text):
        return _duration(text)
    return text


_ENGLISH = {
    "lr": "learning rate",
    "grad_norm": "gradient norm, before clipping",
    "tokens_per_s": "tokens per second",
    "rollout/reward": "reward",
    "rollout/answer_kl": "divergence from the reference, nats per answer",
    "held-out bpb": "held-out bits per byte",
    "loss": "training loss, nats",
    "cpu": "processor",
    "gpus": "GPUs",
    "world_size": "processes",
    "threads": "threads of each",
    "platform": "system",
    "report of a run": "Report of a run",
}


def _duration(text: str) -> str:
    """A duration such as 12 min 05 s."""
    for unit, name in ((" min", " 分"), (" s", " 秒"), (" d", " 天"), (" h", " 小时")):
        text = text.replace(unit, name)
    return text
