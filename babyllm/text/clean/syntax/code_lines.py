r"""Forms of single lines of code: statements recognised on their own, and lines that are code next to other code.

The forms are those of C and its relatives, Python, JavaScript, shells, SQL, JSON, YAML, CSS, LaTeX and
reStructuredText. Prose about code must not match. So the forms are bound to the beginning or the end of a line, and a
line with Chinese outside of quotes and comments is code only if a keyword or a bracket shows it.
"""

from __future__ import annotations

import re
from functools import lru_cache

from babyllm.text.clean.syntax.characters import HAN, KANA

_SIGNS = re.compile('[(){}\\[\\]=;<>$\\\\#@/*":+&|>-]')
_HAN = re.compile(f"[{HAN}{KANA}，。！？；：、]")
_LITERALS = re.compile(
    r"""'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"|`[^`\n]*`|(?:(?<![:\w])//|/\*|(?<!\S)#|(?<=\s)--\s).*$"""
)
_INDENT = " \t\xa0\u3000"
_LONGEST = 1000  # characters of a line that are examined
_FLAGS = re.VERBOSE | re.ASCII

# ---- recognised by a keyword or a bracket, whatever else the line holds

_WORD = re.compile("[A-Za-z]+[0-9]?")
_AFTER_KEYWORD = re.compile(
    r"""
    # Python
      (?:async[ ])?def[ ]+\w+[ ]*\( | class[ ]+\w+[ ]*(?:\([^()]*\))?[ ]*:[ ]*(?:\#.*)?$
    | from[ ]+[\w.]+[ ]+import[ ] | import[ ]+[\w.]+[ ]as[ ] | import[ ]+[\w.]+(?:[ ]*,[ ]*[\w.]+)*[ ]*;?[ ]*(?:\#.*)?$
    | for[ ]+[\w, ()]+[ ]in[ ][^.。]+:[ ]*(?:\#.*)?$ | (?:else|try|finally|do)[ ]*[:{][ ]*(?:\#.*)?$
    | (?:elif|while|except|if)[ ](?:not[ ])?[\w.]+:$
    | (?:elif|while|except|with|if)[ ][^。，]*[()\[\]=<>'"][^。，]*:[ ]*(?:\#.*)?$ | In[ ]\[\d*\]:
    # C, JavaScript
    | (?:else[ ]+)?(?:if|while|for|switch|catch)[ ]*\([^\n]*\)[ ]*(?:\{|[^\n]*;)
    | import\b[^\n]*\bfrom[ ]*['"] | (?:const|let|var)[ ]+[\w{\[$][^\n]*=
    | (?:export[ ]+)?(?:async[ ]+)?function\b[^.。]*\(
    # SQL
    | (?:SELECT|INSERT[ ]+INTO|DELETE[ ]+FROM|(?:ALTER|DROP)[ ]+TABLE)[ ]
    | CREATE[ ]+(?:OR[ ]+REPLACE[ ]+)?(?:TABLE|INDEX|VIEW|DATABASE)[ ] | (?:UPDATE[ ].*\bSET|select[ ].+[ ]from)[ ]
    # shells
    | (?:sudo|pip3?[ ]install|npm[ ](?:i|install|run)|apt(?:-get)?[ ]install)[ ]+\S
    | git[ ](?:clone|commit|push|add|checkout|pull|init)[ ]+\S
    | (?:curl|wget)[ ]+(?:-|https?:) | export[ ]+\w+= | echo[ ]+["'$-] | if[ ]+\[+[ ].*\]
    """,
    _FLAGS,
)
_KEYWORDS = frozenset(
    (
        *("def", "class", "from", "import", "for", "else", "try", "finally", "do", "elif", "while", "except", "with"),
        *("if", "In", "switch", "catch", "const", "let", "var", "export", "async", "function", "SELECT", "INSERT"),
        *("DELETE", "ALTER", "DROP", "CREATE", "UPDATE", "select", "sudo", "pip", "pip3", "npm", "apt", "git", "curl"),
        *("wget", "echo"),
    )
)
_AFTER_SIGN = re.compile(
    r"""
      \#[ \t]*include[ \t]*[<"] | \#[ \t]*(?:define|undef|ifn?def)[ \t]+\w
    | \#(?:if|elif|else|endif|pragma|error|line)\b | \#!/ | <\?php | //(?!\w) | /\*
    | \}[ ]*(?:else|catch|finally|while)\b | [}\]][\]});,]*[ ]*(?://.*|\#.*)?$ | [{\[]$
    | \[[\w \t.'"+-]*,[\w \t.,'"+-]*\][,;]?$ | [{\[][ ]*"[^\n]*[}\]],?$
    | "[^"\n]*"[ ]*:[ ]*(?:["\[{\d-]|true|false|null)
    | >>>[ ] | [$][ ]+[a-z] | @@[ ]-\d | [+-]{3}[ ][ab]/ | \.\.[ ][\w:-]+::
    | \\(?:begin|end|documentclass|usepackage|section|subsection|item|newcommand|[a-z]+(?=[{\[]))\b
    """,
    _FLAGS,
)

# ---- recognised by their form, if Chinese stands only in quotes and comments

_TYPE = (
    r"(?:public|private|protected|static|final|const|unsigned|signed|virtual|inline|extern|struct|enum|union|typedef|"
    r"volatile|constexpr|void|int|char|float|double|long|short|bool|boolean|size_t|u?int\d+_t|auto|String|string|"
    r"let|var|val|mut|pub|fn|func|fun|type|abstract|override)"
)
_PLACE = r"[A-Za-z_$][\w$]*(?:(?:\.|->|::)[\w$]+|\[[^\]\n]*\])*"
_STATEMENT = re.compile(
    rf"""
      {_PLACE}[ \t]*(?:[-+*/|&^%.@]|<<|>>|\*\*|//|:|\?\?)?=(?![=>])[ \t]*\S
    | {_PLACE}\([^\n]*\)[ \t]*(?:$|[;{{:])
    | {_TYPE}(?:[ ]+{_TYPE})*[ \t]+[*&]*[\w<>:,*&\[\]]+(?:[ \t]+[*&]*\w+)?[ \t]*[=;{{\[(]
    | \(\(?(?:def\w*|let|lambda|if|set[qf!])[ ]
    | return[ ][\w.\[\](){{}}+*/%<>='\", -]*[()\[\]={{}}+*/%<>'\"_]
    """,
    _FLAGS,
)
# What a statement holds before its last character, by that character.
_ENDINGS = {
    ";": re.compile(
        r"[\w)\]][(]|=|->|::|\+\+|--|\w\.\w|^(?:return|throw|goto|break|continue)\b|^[a-z-]+[ ]*:", re.ASCII
    ),
    "{": re.compile(r"[\w)\]=>:,(\"'][ \t]*\{$", re.ASCII),
    ",": re.compile(r"[ \t(]\*+\w+[ ]*,$", re.ASCII),
}
_OPERATORS = re.compile(
    r"\w ?&& ?\w|\|\||!=|==|->|[-+*/|]=|\w::\w|\w<\w+>|\w\(\)|\w\[\w+\]|\w\.\w+\(|=>|<<|\+\+|\w\{", re.ASCII
)
_JUMP = re.compile(r"(?:return|raise|yield|break|continue|pass)(?: [\w.\"'()\[\]{}, +*/-]*)?;?$", re.ASCII)  # indented
_KEY = re.compile(r"[ ]*(?:- )?[a-z_][\w.-]*:(?: |$)", re.ASCII)

# ---- code next to code

_WEAK = re.compile(
    r"""
      (?:[ \t\xa0\u3000]{2,}|\t)\S | //|/\*|\*[ /]|\#|--|;|%|@\w | [)\]}]+[;,]?$ | \w[\w.]*:(?:[ ]|$) | -[ ]\S+:
    | (?:pass|break|continue|else|end|fi|done|esac|then|return|do|begin)\b
    | (?:if|elif|while|for|with|except|raise|yield|assert|del|global|import|from)\b
    | (?:use|using|package|module|require|print)\b
    | (?:FROM|WHERE|AND|OR|GROUP|ORDER|LEFT|INNER|JOIN|VALUES|SET|LIMIT|ON|HAVING)\b | \.\.\.(?:[ ]|$) | [\w$]+=\S
    """,
    _FLAGS,
)
_WEAK_END = tuple(",([{\\|&=:;}")
_CALL = re.compile(r"\w\(", re.ASCII)


@lru_cache(1 << 14)
def is_statement(line: str) -> bool:
    """Whether a line on its own is code."""
    is_indented = line[:1] in _INDENT
    line = line[:_LONGEST].strip(_INDENT)
    if is_indented and _JUMP.match(line):
        return True
    if not _SIGNS.search(line):
        return False
    word = _WORD.match(line)
    if (word[0] in _KEYWORDS and _AFTER_KEYWORD.match(line)) if word else _AFTER_SIGN.match(line):
        return True
    bare = _LITERALS.sub("''", line).rstrip() if not line.isascii() or "/" in line or "#" in line else line
    if not bare or (not bare.isascii() and _HAN.search(bare)):
        return False
    ending = _ENDINGS.get(bare[-1])
    return bool(_STATEMENT.match(bare) or (ending and ending.search(bare)) or _has_two_operators(bare))


def _has_two_operators(line: str) -> bool:
    first = _OPERATORS.search(line)
    return first is not None and any(found[0] != first[0] for found in _OPERATORS.finditer(line, first.end()))


def is_key(line: str) -> bool:
    """Whether a line begins with a key as in YAML; the name of a speaker in a dialogue may look the same."""
    return ":" in line and bool(_KEY.match(line))


def is_weak(line: str) -> bool:
    """Whether a line is code if the one before or after it is."""
    looks_so = line.rstrip(" ").endswith(_WEAK_END) or _WEAK.match(line) or _CALL.search(line)
    return bool(looks_so) and not is_chinese(line)


def is_chinese(line: str) -> bool:
    """Whether a line holds Chinese outside of quotes and comments."""
    return not line.isascii() and bool(_HAN.search(line)) and bool(_HAN.search(_LITERALS.sub("''", line)))
