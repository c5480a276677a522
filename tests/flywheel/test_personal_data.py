"""Personal data in texts: what is replaced, and what has to stay."""

import random

import pytest

from babyllm.text.personal.check_digits import has_luhn
from babyllm.text.personal.removal import RULES, without_personal

PLANTED = {
    "email": (
        "我的邮箱是zhang.san_88@163.com，请联系。",
        "Write to <jane.o'neil@mail.example.co.uk>!",
        "邮箱：ｌｉｓｉ＠ｑｑ．ｃｏｍ",
        "reach me: bob [at] example [dot] org",
        "mail john.doe+shop@sub-domain.example.museum now",
        "发到test(at)foxmail.com就行",
        "邮箱-lisi@qq.com",
        "回复.lisi@qq.com",
        "......_lisi@qq.com",
        "lisi@qq。com谢谢",
        "lisi @ qq.com",
        "lisi#qq.com",
        "write to lisi at gmail.com",
        "lisi艾特163点com",
    ),
    "phone": (
        "手机13800138000",
        "打我电话 138 0013 8000 吧",
        "+86-139-1234-5678",
        "联系电话：010-62345678转801",
        "座机(021) 5888 9999",
        "客服400-820-8820",
        "一三八零零一三八零零零这个号",
        "138\u200b0013\u200b8000",
        "１５９１２３４５６７８",
        "Call +1 (415) 555-2671 today",
        "my cell is 415-555-2671.",
        "+44 20 7946 0958 or 07700 900123",
        "tel: 8765 4321",
        "Ring +49 30 901820 please",
        "+81-3-1234-5678",
        "电话是87654321",
        "有意请联系.13800138000",
        "加v13800138000",
        "wechat13800138000",
        "13800138000QQ同号",
        "138.0013.8000",
        "138—0013—8000",
        "(138)0013-8000",
        "138 00138000",
        "13800 138000",
        "1 3 8 0 0 1 3 8 0 0 0",
        "0086 138 0013 8000",
        "013800138000",
        "①③⑧⓪⓪①③⑧⓪⓪⓪",
        "1️⃣3️⃣8️⃣0️⃣0️⃣1️⃣3️⃣8️⃣0️⃣0️⃣0️⃣",
        "\u202d13800\u200e138000\u202c",
        "壹叁捌零零壹叁捌零零零",
        "一三八 零零一三 八零零零",
        "138零零138零零零",
        "打02158889999",
        "86-21-58889999",
        "0912-345-678",
    ),
    "id": (
        "身份证11010519491231002X",
        "440524188001010014太早了，110101199003072930 才是真的",
        "身份证号：110101 1990 0307 2930",
        "SSN 123-45-6789",
        "香港身份证 A123456(3)",
        "护照号码：E12345678",
        "passport no. G87654321",
        "ID110101199003072930",
        "1101 0119 9003 0729 30",
        "110101.19900307.2930",
        "台灣身分證A123456789",
        "A123456789是我的",
        "身份證字號：A123456780",
        "港澳通行证C12345678",
    ),
    "card": (
        "卡号6222021234567890123",
        "4111 1111 1111 1111",
        "Visa 4012-8888-8888-1881 exp",
        "378282246310005",
        "4111 1111 1111 1111 12/26",
        "4111-1111-1111-1111-123",
        "No. 1 4111 1111 1111 1111",
        "帳號：1234567890123",
        "银行卡：6225 8801 0000 0000",
        "account number: 1234567890123",
    ),
    "ip": (
        "服务器IP是 192.168.31.107",
        "from 203.0.113.42 port 22",
        "2001:0db8:85a3::8a2e:0370:7334",
        "fe80::1ff:fe23:4567:890a",
        "ip: 8.8.8.8",
    ),
    "account": (
        "加我微信：zhangsan_88",
        "QQ号：12345678",
        "wechat id: cat2024x",
        "我QQ12345678",
        "QQ号码是12345678",
        "扣扣12345678",
        "wx：zhangsan88",
        "薇信号：zhangsan88",
        "加微zhangsan88",
        "wxid_a1b2c3d4e5f6",
    ),
    "address": (
        "我住在北京市海淀区中关村大街27号院3号楼2单元502室。",
        "请寄到浙江省 杭州市 西湖区 文三路 90号",
        "收货地址：上海市浦东新区世纪大道100号",
        "他搬到人民南路四段13号了",
        "阳光花园12栋3单元1201",
        "湖南省长沙县黄花镇高塘村5组",
        "朝阳小区3号楼",
        "I live at 221B Baker Street, London NW1 6XE.",
        "Ship to 1600 Amphitheatre Pkwy, Mountain View, CA 94043",
        "12 Elm St. Apt 4B, Springfield, IL 62704",
        "P.O. Box 1234",
    ),
}
SECRETS = (
    "zhang.san",
    "neil@",
    "ｌｉｓｉ",
    "bob",
    "13800138000",
    "138 0013",
    "62345678",
    "2671",
    "107",
    "Baker",
    "27号",
    "1201",
    "lisi",
    "8000",
    "零零零",
    "⓪⓪",
    "9999",
    "0729",
    "A12345",
    "1111 1111",
    "12345678",
    "zhangsan88",
)
KEPT = (
    "会议定在2024-05-01 12:30:45，地点不变。",
    "2023年10月1号到3号放假",
    "价格是￥1,299.00，原价12800元",
    "It costs $1,234,567.89 or 1.5e10.",
    "Python 3.11.4 和 CUDA 12.1.105",
    "Chrome/120.0.6099.109 Safari/537.36",
    "version 10.15.7.1, v1.2.3.4",
    "见第3.2.1.4节",
    "圆周率是3.14159265358979",
    "订单号20240501123456789012",
    "时间戳1714550400000",
    "坐地铁2号线到人民路",
    "走路5号就到了",
    "第5号台风沿公路107号前进",
    "ISBN 978-7-020-00220-7",
    "std::vector<int> a::b 12:30",
    "loss = (A@B.T).sum(), w@x.reshape(2, 3)",
    "@zhangsan 你好",
    "In 2023 Wall Street rallied; 5 Wall Street analysts agreed.",
    "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16",
    "1234567890123456",  # no card: Luhn's check digit is wrong
    "110105194912310021",  # no identity number: the check character is wrong
    "localhost 127.0.0.1 0.0.0.0",
    "比分是110比98，第13轮",
    "sha 3f2504e04f8941d39a0c0305e82c3301",
    "房间号码不重要，价格1299",
    "买了3栋楼",
    "GDP增长+5.2%，+20个百分点",
    "2020-2021-2022 三年",
    "电话费120元",
    "the phone costs 1000000 dollars",
    "x = 555-1234",
    "温度 -12.5 到 +38.25",
    "0.13800138000",
    "B123456789 是订单",  # no number of Taiwan: the check digit is wrong
    "1 3 5 7 9 11 13 15 17 19",
    "QQ2023版，QQ空间",
    "look at example.com",
    "1111 2222 3333 4444 5555",
)


@pytest.mark.parametrize("kind", list(PLANTED))
def test_planted_data_are_replaced(kind: str) -> None:
    """Each planted piece of personal data becomes the placeholder of its kind and is counted."""
    for text in PLANTED[kind]:
        cleaned = without_personal(text)
        assert f"<{kind.upper()}>" in cleaned.text and cleaned.n.get(kind), (text, cleaned)
        assert not [secret for secret in SECRETS if secret in cleaned.text], cleaned


def test_words_before_an_address_stay() -> None:
    """An address is replaced from its beginning to its end and no further."""
    assert without_personal("我住在北京市海淀区中关村大街27号院3号楼2单元502室。").text == "我住在<ADDRESS>。"
    assert without_personal("请寄到浙江省 杭州市 西湖区 文三路 90号，谢谢").text == "请寄到<ADDRESS>，谢谢"
    assert without_personal("I live at 12 Elm St. Apt 4B, Springfield, IL 62704 now").text == "I live at <ADDRESS> now"
    assert without_personal("手机号:１３８００１３８０００。").text == "手机号:<PHONE>。"


def test_other_numbers_stay() -> None:
    """Dates, prices, versions, orders, code and roads without a house are left as they are."""
    changed = {text: cleaned for text in KEPT if (cleaned := without_personal(text)).n}
    assert changed == {}


def test_overlapping_pieces_leave_nothing() -> None:
    """Two rules of one kind that overlap make one placeholder; what a piece of another kind covers is not lost."""
    assert without_personal("香港身份证A123456(3)。").text == "香港身份证<ID>。"
    assert without_personal("0086 138 0013 8000").text == "<PHONE>"
    assert without_personal("卡 4111 1111 1111 1111 12/26").text == "卡 <CARD> 12/26"
    assert without_personal("110101199003072930 13800138000").text == "<ID> <PHONE>"


def test_only_chosen_kinds_are_replaced() -> None:
    """Kinds that were not chosen stay, and a text without any is the same object."""
    text = "13800138000 a@b.cn"
    assert without_personal(text, ["email"]).text == "13800138000 <EMAIL>"
    assert without_personal(text, []).text is text


def test_drawn_numbers_are_found_in_any_place() -> None:
    """Of numbers drawn with right check digits, put between words in both languages, none survives."""
    rng, missed, n = random.Random(7), [], 0
    before, after = ("我的是", "call ", "（", "：", " "), ("。", "谢谢", " ok", "）", ", then")
    for _ in range(300):
        for number in (_mobile(rng), _identity(rng), _card(rng), f"{_word(rng)}@{_word(rng)}.com"):
            text = f"{rng.choice(before)}{number}{rng.choice(after)}"
            n += 1
            if number in without_personal(text).text:
                missed.append(text)
    assert missed == [] and n == 1200


def test_a_million_characters_take_linear_time() -> None:
    """No rule reads a long text more than a few times, whatever it repeats."""
    for text in ("1" * 50_000, "a@" * 20_000, "路1号" * 5_000, "1.1." * 10_000, "省市区" * 10_000, ":1" * 20_000):
        assert len(without_personal(text).text) <= 3 * len(text)
    assert set(RULES) == set(PLANTED)


def _mobile(rng: random.Random) -> str:
    return f"1{rng.choice('3456789')}{rng.randrange(10**9):09d}"


def _identity(rng: random.Random) -> str:
    born = f"{rng.randrange(1940, 2020)}{rng.randrange(1, 13):02d}{rng.randrange(1, 29):02d}"
    body = f"{rng.randrange(110101, 659001)}{born}{rng.randrange(1000):03d}"
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    return body + "10X98765432"[sum(int(c) * w for c, w in zip(body, weights, strict=True)) % 11]


def _card(rng: random.Random) -> str:
    body = rng.choice(("4", "51", "6222")) + "".join(rng.choice("0123456789") for _ in range(14))
    body = body[:15]
    return next(body + c for c in "0123456789" if has_luhn(body + c))


def _word(rng: random.Random) -> str:
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(rng.randrange(3, 12)))
