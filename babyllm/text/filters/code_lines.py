r"""How a single line of code looks: statements that are told by themselves, and lines that are code beside others.

The forms are those of C and its relatives, Python, JavaScript, shells, SQL, JSON, YAML, XML, CSS, LaTeX and
reStructuredText. Prose that speaks of code must not match: forms are bound to the beginning of a line, and what holds
Chinese outside of quotes and comments is code only where a keyword or a bracket says so.
"""

from __future__ import annotations

import re

from babyllm.text.filters.characters import HAN, KANA

_SIGNS = re.compile('[(){}\\[\\]=;<>$\\\\#@/*":+&|>-]')
_HAN = re.compile(f"[{HAN}{KANA}，。！？；：、]")
_LITERALS = re.compile(
    r"""'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"|`[^`\n]*`|(?:(?<![:\w])//|/\*|(?<!\S)#|(?<=\s)--\s).*$"""
)
_INDENT = re.compile("[ \t\xa0\u3000]*")

# Told by a keyword or a bracket, whatever else the line holds.
_KEYWORD = re.compile(
    r"""
      \#[ \t]*include[ \t]*[<"] | \#[ \t]*(?:define|undef|ifn?def)[ \t]+\w
    | \#(?:if|elif|else|endif|pragma|error|line)\b
    | \#!/ | <\?php | //(?!\w) | /\*
    | (?:async[ ]+)?def[ ]+\w+[ ]*\( | class[ ]+\w+[ ]*(?:\([^()]*\))?[ ]*:[ ]*(?:\#.*)?$
    | (?:import|from)[ ]+[\w.]+[ ]+(?:import|as)[ ] | import[ ]+[\w.]+(?:[ ]*,[ ]*[\w.]+)*[ ]*;?[ ]*(?:\#.*)?$
    | import\b.*\bfrom[ ]*['"] | (?:const|let|var)[ ]+[\w{\[$].*= | (?:export[ ]+)?(?:async[ ]+)?function\b[^.。]*\(
    | for[ ]+[\w, ()]+[ ]in[ ][^.。]+:[ ]*(?:\#.*)?$ | (?:else|try|finally|do)[ ]*[:{][ ]*(?:\#.*)?$
    | (?:elif|while|except|with|if)[ ][^。，]*[()\[\]=<>'"][^。，]*:[ ]*(?:\#.*)?$
    | (?:\}[ ]*)?(?:else[ ]+)?(?:if|while|for|switch|catch)[ ]*\(.*\)[ ]*(?:\{.*|[^\n]*;[ ]*.*)$
    | \}[ ]*(?:else|catch|finally|while)\b
    | [}\]][\]});,]*[ ]*(?://.*|\#.*)?$ | [{\[]$ | \[[\w \t.'"+-]*,[\w \t.,'"+-]*\][,;]?$
    | "[^"\n]*"[ ]*:[ ]*(?:["\[{\d-]|true|false|null) | [{\[][ ]*"[^\n]*[}\]],?$
    | >>>[ ] | [$][ ]+[a-z] | In[ ]\[\d*\]: | @@[ ]-\d | [+-]{3}[ ][ab]/
    | (?:SELECT|INSERT[ ]+INTO|DELETE[ ]+FROM|(?:ALTER|DROP)[ ]+TABLE)[ ]
    | CREATE[ ]+(?:OR[ ]+REPLACE[ ]+)?(?:TABLE|INDEX|VIEW|DATABASE)[ ] | (?:UPDATE[ ].*\bSET|select[ ].+[ ]from)[ ]
    | \\(?:begin|end|documentclass|usepackage|section|subsection|item|newcommand|[a-z]+(?=[{\[]))\b | \.\.[ ][\w:-]+::
    | (?:sudo|pip3?[ ]install|npm[ ](?:i|install|run)|apt(?:-get)?[ ]install)[ ]+\S
    | git[ ](?:clone|commit|push|add|checkout|pull|init)[ ]+\S
    | (?:curl|wget)[ ]+(?:-|https?:) | export[ ]+\w+= | echo[ ]+["'$-] | if[ ]+\[+[ ].*\]+
    """,
    re.VERBOSE | re.ASCII,
)

_TYPE = (
    r"(?:public|private|protected|static|final|const|unsigned|signed|virtual|inline|extern|struct|enum|union|typedef|"
    r"volatile|constexpr|void|int|char|float|double|long|short|bool|boolean|size_t|u?int\d+_t|auto|String|string|"
    r"let|var|val|mut|pub|fn|func|fun|type|abstract|override)"
)
# Told by their form where nothing but quotes and comments holds Chinese.
_STATEMENT = re.compile(
    rf"""
      [A-Za-z_$][\w$]*(?:(?:\.|->|::)[\w$]+|\[[^\]\n]*\])*[ \t]*(?:[-+*/|&^%.@]|<<|>>|\*\*|//|:|\?\?)?=(?![=>])[ \t]*\S
    | [A-Za-z_$][\w$]*(?:(?:\.|->|::)[\w$]+|\[[^\]\n]*\])*\([^\n]*\)[ \t]*(?:[;{{:][^\n]*)?$
    | {_TYPE}(?:[ ]+{_TYPE})*[ \t]+[*&]*[\w<>:,*&\[\]]+(?:[ \t]+[*&]*\w+)?[ \t]*(?:[=;{{\[]|\()
    | [^\n]*(?:[\w)\]][(]|[ ]?=[ ]?|->|::|\+\+|--|\w\.\w)[^\n]*;$ | [^\n]*[\w)\]=>:,("'][ \t]*\{{$
    | [a-z-]+[ ]*:[ ]*[^;\n]+;$ | [^\n]*[ \t(]\*+\w+[ ]*[,)][;,]*$ | [^\n]*\)[ ]*=>[ ]*\S
    | \(\(?(?:def\w*|let|lambda|if|set[qf!])[ ]
    | (?:return|throw|goto|break|continue|case[ ]\w+:)\b[^\n]*;$
    | return[ ][\w.\[\](){{}}+*/%<>='\", -]*[()\[\]={{}}+*/%<>'\"_][^\n]*$
    """,
    re.VERBOSE | re.ASCII,
)
_OPERATORS = re.compile(
    r"\w[ ]?&&[ ]?\w|\|\||!=|==|->|[-+*/|]=|\w::\w|\w<\w+>|\w\(\)|\w\[\w+\]|\w\.\w+\(|=>|<<|\+\+|\w\{", re.ASCII
)
_KEY = re.compile(r"[ ]*(?:- )?[a-z_][\w.-]*:(?: |$)", re.ASCII)

_WEAK = re.compile(
    r"""
      (?:[ \t\xa0\u3000]{2,}|\t)\S | //|/\*|\*[ /]|\#|--|;|%|@\w | [)\]}]+[;,]?$ | \w[\w.]*:(?:[ ]|$) | -[ ]\S+:
    | [^\n]*[,(\[{\\|&=:;}][ ]?$ | [^\n]*\w\([^\n]*\)
    | (?:pass|break|continue|else|end|fi|done|esac|then|return|do|begin)\b
    | (?:if|elif|while|for|with|except|raise|yield|assert|del|global|import|from)\b
    | (?:use|using|package|module|require|print)\b
    | (?:FROM|WHERE|AND|OR|GROUP|ORDER|LEFT|INNER|JOIN|VALUES|SET|LIMIT|ON|HAVING)\b | \.\.\.(?:[ ]|$) | [\w$]+=\S
    """,
    re.VERBOSE | re.ASCII,
)


def is_statement(line: str) -> bool:
    """Whether a line is code by itself."""
    if not _SIGNS.search(line):
        return False
    start = _INDENT.match(line).end()  # type: ignore[union-attr]
    line = line[start:].rstrip()
    if _KEYWORD.match(line):
        return True
    bare = _LITERALS.sub("''", line).rstrip() if "'" in line or '"' in line or "/" in line or "#" in line else line
    if _HAN.search(bare):
        return False
    return bool(_STATEMENT.match(bare)) or len(set(_OPERATORS.findall(bare))) >= 2


def is_key(line: str) -> bool:
    """Whether a line begins with a key as in YAML, which a name in a dialogue may look like too."""
    return ":" in line and bool(_KEY.match(line))


def is_weak(line: str) -> bool:
    """Whether a line is code if the one before or after it is."""
    return bool(_WEAK.match(line)) and not is_chinese(line)


def is_chinese(line: str) -> bool:
    """Whether a line holds Chinese outside of quotes and comments."""
    return bool(_HAN.search(line)) and bool(_HAN.search(_LITERALS.sub("''", line)))
