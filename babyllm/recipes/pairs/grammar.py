"""Pairs of Chinese grammar from templates and own lists of words."""

from __future__ import annotations

import random
from itertools import product
from typing import NamedTuple

from babyllm.recipes.pairs.crossing import Pair, crossed, reordered

PEOPLE = ["小王", "老李", "小张", "老师", "弟弟", "姐姐", "妈妈", "爸爸", "医生", "司机", "邻居", "同学"]
THINGS = {
    **{
        "本": "书 小说 词典 杂志 日记",
        "条": "鱼 裤子 裙子 河 毛巾",
        "张": "纸 桌子 床 照片 地图",
        "辆": "汽车 自行车 公交车 卡车",
    },
    **{
        "只": "猫 鸟 鸡 羊 兔子",
        "件": "衬衫 毛衣 外套 礼物",
        "把": "雨伞 椅子 钥匙 剪刀",
        "座": "山 桥 城市 大楼",
        "棵": "树 白菜 小草",
    },
    **{
        "杯": "茶 牛奶 咖啡 果汁",
        "匹": "马 狼 骆驼",
        "顶": "帽子 帐篷",
        "双": "鞋 筷子 袜子 手套",
        "封": "信",
        "朵": "花 云",
    },
}
OBJECTS = {
    **{"喝": "茶 水 牛奶 果汁", "吃": "面包 米饭 苹果 饺子", "穿": "衬衫 毛衣 裤子 鞋", "戴": "帽子 眼镜 手套 手表"},
    **{
        "读": "小说 报纸 课文 诗",
        "弹": "钢琴 吉他",
        "踢": "足球 毽子",
        "骑": "自行车 马",
        "听": "音乐 广播",
        "写": "信 作文 日记",
    },
}
OPPOSITES = (
    "大小 多少 高低 长短 快慢 冷热 轻重 早晚 远近 新旧 黑白 粗细 深浅 真假 胖瘦 强弱 宽窄 厚薄 软硬 "
    "难易 左右 前后 上下 里外 开关 买卖 哭笑 生死 有无 对错"
)
DOINGS = ["看书", "吃饭", "唱歌", "跳舞", "写字", "画画", "洗衣服", "做作业", "打电话", "听音乐"]
PLACES = ["家里", "学校", "公园", "图书馆", "办公室", "教室"]
QUALITIES = ["高", "胖", "聪明", "认真", "年轻", "忙", "快乐", "勇敢"]


class Template(NamedTuple):
    """Sentences with {0}, {1} and {2} for words, right and wrong ones.

    Attributes:
        right: sentences that are right.
        wrong: as many sentences, each wrong in one word or in its order. Over all of them the exchanged words are as
            often right as wrong.
        words: words for each place.
    """

    right: tuple[str, ...]
    wrong: tuple[str, ...]
    words: tuple[list[str], ...]


ORDERS = {
    "ba_order": Template(
        ("{0}把{1}放在桌子上了。",), ("{0}放把{1}在桌子上了。",), (PEOPLE, ["书", "杯子", "信", "钥匙", "帽子"])
    ),
    "ba_negation": Template(
        ("{0}没有把{1}放在桌子上。",), ("{0}把{1}没有放在桌子上。",), (PEOPLE, ["书", "杯子", "信", "钥匙", "帽子"])
    ),
    "bei_roles": Template(
        ("{1}被{0}弄坏了。",), ("{0}被{1}弄坏了。",), (PEOPLE, ["电脑", "杯子", "雨伞", "手机", "自行车"])
    ),
    "bi_order": Template(("{0}比{1}{2}。",), ("{0}{2}比{1}。",), (PEOPLE, PEOPLE, QUALITIES)),
    "adverb_order": Template(
        ("{0}也在{1}。", "{0}已经开始{1}了。", "{0}常常{1}。"),
        ("也{0}在{1}。", "已经{0}开始{1}了。", "{0}{1}常常。"),
        (PEOPLE, DOINGS),
    ),
    "place_order": Template(("{0}在{1}{2}。",), ("{0}{2}在{1}。",), (PEOPLE, PLACES, DOINGS)),
    "classifier_order": Template(
        ("{0}买了三{1}。",), ("{0}买了{1}三。",), (PEOPLE, ["本书", "条鱼", "张地图", "件衬衫", "把雨伞"])
    ),
}
CHOICES = {
    "negation_bu_mei": Template(
        ("{0}从来没{1}过{2}。", "{0}明天不{1}{2}。"),
        ("{0}从来不{1}过{2}。", "{0}明天没{1}{2}。"),
        (PEOPLE, ["看", "买"], ["书", "地图", "照片", "花"]),
    ),
    "aspect_zhe_le": Template(
        ("{0}正拿着{1}呢。", "{0}昨天拿了两次{1}。"),
        ("{0}正拿了{1}呢。", "{0}昨天拿着两次{1}。"),
        (PEOPLE, ["书", "伞", "花", "信", "票"]),
    ),
    "aspect_zhe_guo": Template(
        ("{0}以前从没去过{1}。", "{0}笑着走进{1}。"), ("{0}以前从没去着{1}。", "{0}笑过走进{1}。"), (PEOPLE, PLACES)
    ),
    "question_ma_ne": Template(
        ("{0}是不是{1}呢？", "难道{0}是{1}吗？"),
        ("{0}是不是{1}吗？", "难道{0}是{1}呢？"),
        (PEOPLE[:4], ["医生", "记者", "演员", "警察", "律师", "作家"]),
    ),
    "haishi_huozhe": Template(
        ("{0}到底想{1}还是想{2}呢？", "{0}周末总是{1}或者{2}。"),
        ("{0}到底想{1}或者想{2}呢？", "{0}周末总是{1}还是{2}。"),
        (PEOPLE, DOINGS, DOINGS),
    ),
    "reflexive_gender": Template(
        ("爸爸{0}{1}他自己。", "妈妈{0}{1}她自己。"),
        ("爸爸{0}{1}她自己。", "妈妈{0}{1}他自己。"),
        (["昨天", "刚才", "后来", "终于", "又", "果然"], ["批评了", "表扬了", "安慰了", "画了", "介绍了", "忘了"]),
    ),
    "reflexive_number": Template(
        ("这个{0}只相信他自己{1}。", "这些{0}只相信他们自己{1}。"),
        ("这个{0}只相信他们自己{1}。", "这些{0}只相信他自己{1}。"),
        (["孩子", "医生", "司机", "学生", "男人", "老人", "工人", "客人"], ["的话", "的眼睛", "的经验"]),
    ),
    "de_particles": Template(
        ("{0}跑得很{1}。", "{0}高兴地{2}。"),
        ("{0}跑地很{1}。", "{0}高兴得{2}。"),
        (PEOPLE, ["快", "慢", "远", "累"], ["说", "唱", "跳", "笑"]),
    ),
    "liang_er": Template(
        ("{0}买了两{1}。", "{0}拿走了第二{1}。"),
        ("{0}买了二{1}。", "{0}拿走了第两{1}。"),
        (PEOPLE, ["本书", "条鱼", "张票", "件衬衫", "把伞", "杯茶"]),
    ),
    "conjunctions": Template(
        ("因为{1}，所以{0}没出门。", "虽然{1}，但是{0}出门了。"),
        ("因为{1}，但是{0}没出门。", "虽然{1}，所以{0}出门了。"),
        (PEOPLE, ["下雨", "下雪", "刮风", "天黑了", "生病了"]),
    ),
}


def ordered(rng: random.Random, n: int, name: str) -> list[Pair]:
    """Pairs of the same words, in a right and a wrong order."""
    template = ORDERS[name]
    filled = [words for words in product(*template.words) if len(set(words)) == len(words)]
    sentences = zip(template.right, template.wrong, strict=True)
    return reordered(rng, [Pair(r.format(*w), b.format(*w)) for r, b in sentences for w in filled], n)


def chosen(rng: random.Random, n: int, name: str) -> list[Pair]:
    """Pairs that differ in a word; the two words are exchanged in the next pair, with the same other words."""
    template = CHOICES[name]
    filled = [words for words in product(*template.words) if len(set(words)) == len(words)]
    rng.shuffle(filled)
    sentences = list(zip(template.right, template.wrong, strict=True))
    found = [Pair(r.format(*words), w.format(*words)) for words in filled for r, w in sentences]
    unique = list(dict.fromkeys(found))
    return unique[: n - n % len(sentences)]


def classifiers(rng: random.Random, n: int) -> list[Pair]:
    """Nouns with their measure word, and with that of another noun."""
    allowed = {noun: measure for measure, nouns in THINGS.items() for noun in nouns.split()}
    facts = [
        (f"{person}{verb}{{}}{noun}", measure)
        for noun, measure in allowed.items()
        for person in PEOPLE
        for verb in ("想要一", "看见了一")
    ]
    pairs = crossed(rng, facts, "{0}|{1}", n)
    return [Pair(*(side.partition("|")[0].format(side.partition("|")[2]) + "。" for side in pair)) for pair in pairs]


def objects(rng: random.Random, n: int) -> list[Pair]:
    """Verbs with an object that fits, and with that of another verb."""
    fits = {(verb, noun) for verb, nouns in OBJECTS.items() for noun in nouns.split()}
    facts = [
        (f"{person}{when}{verb}", noun)
        for verb, noun in sorted(fits)
        for person in PEOPLE
        for when in ("在", "正在", "想", "喜欢")
    ]
    return crossed(rng, facts, "{0}{1}。", n, may_cross=lambda a, b: (a[0][-1], b[1]) not in fits)


def opposites(rng: random.Random, n: int) -> list[Pair]:
    """Words and their opposites."""
    facts = [(both[0], both[1]) for both in OPPOSITES.split()]
    return crossed(rng, [*facts, *((b, a) for a, b in facts)], "“{0}”的反义词是“{1}”。", n)
