"""Short questions in Chinese and English, no two alike, and streams of texts with edited copies."""

import random

CHINESE = (
    """
今天北京的天气怎么样？|请把下面这段话翻译成英语|如何学好高中数学？|怎样才能学好物理呢？|用三句话介绍一下唐代诗人李白
孩子发烧了应该怎么办？|写一首关于春天的五言绝句|推荐几本适合初学者的编程书|为什么天空是蓝色的？|光合作用需要哪些条件？
帮我写一封辞职信，语气要客气|西红柿炒鸡蛋怎么做才好吃？|解释一下什么是通货膨胀|中国有多少个省级行政区？|如何给旧电脑换一块固态硬盘
给我的小猫起五个可爱的名字|世界上最高的山峰是哪一座？|请总结这篇文章的主要观点|怎么在网上办理护照？|周末去杭州旅游有什么建议
计算圆的面积用什么公式？|长期熬夜对身体有哪些坏处|如何说服老板给我加工资？|列出五种富含维生素的水果|请解释量子纠缠的基本概念
租房合同里要注意哪些条款？|孔子的主要思想是什么|怎样训练小狗定点上厕所？|设计一个一周的健身计划|写一段冒泡排序的代码并加上注释
电饭锅煮粥总是溢出来怎么办|为新开的咖啡馆想一句广告语|人工智能会取代老师吗？|比较火车和飞机出行的优缺点|跑步前需要做哪些热身动作？
""".replace("\n", "|")
    .strip("|")
    .split("|")
)
ENGLISH = (
    """
How do I learn to play the guitar?|Translate this paragraph into French|What is the capital city of Australia?
Write a short poem about the autumn rain|Explain how vaccines protect the body|Why do cats purr when they are happy?
Give me three tips for a job interview|Summarise the plot of Romeo and Juliet|How long should I boil an egg?
What are the side effects of ibuprofen?|Draft an email asking for a day off|Name five rivers that flow through Germany
How can I remove red wine from a carpet?|Describe the water cycle to a child|Which planets have rings around them?
Plan a weekend trip to Edinburgh|Convert these measurements to metric units|What causes inflation in an economy?
Write a function that reverses a string|Suggest a name for a bakery by the sea|How does a diesel engine work?
List the ingredients of a classic pesto|What should I pack for a winter hike?|Who painted the Sistine Chapel?
Compare renting a flat with buying one|Explain the offside rule in football|How do I change a flat bicycle tyre?
Invent a riddle whose answer is a shadow|How do viruses and bacteria differ?|Fix the grammar of my cover letter
""".replace("\n", "|")
    .strip("|")
    .split("|")
)


def stream_of(n: int, seed: int, most: int) -> list[str]:
    """Texts of which many are edited copies of earlier ones, of 1 to `most` characters."""
    rng = random.Random(seed)
    texts: list[str] = []
    while len(texts) < n:
        letters = list(rng.choice(texts)) if texts and rng.random() < 0.6 else []
        letters = letters or [chr(rng.randrange(0x4E00, 0x4E80)) for _ in range(rng.randrange(1, most))]
        for _ in range(rng.randrange(1 + len(letters) // 8)):
            letters[rng.randrange(len(letters))] = chr(rng.randrange(0x4E00, 0x4E80))
        texts.append("".join(letters))
    return texts


def numbered(texts: list[str]) -> list[tuple[str, str]]:
    return [(str(i), text) for i, text in enumerate(texts)]
