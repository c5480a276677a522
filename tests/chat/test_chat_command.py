"""`babyllm chat`: what the model reads and what is printed, commands, interruptions, chats that outgrow the context."""

import io
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from model_fixtures import Tiny, chain, decisive

from babyllm.chat.load import ChatTemplate, load_template
from babyllm.chat.messages import ASSISTANT, SYSTEM, USER, Message
from babyllm.chat.session import Session, answer_lead, fitting_prompt
from babyllm.commands.use.chat import Flags, run
from babyllm.errors import UserError
from babyllm.generation import Engine, Sampling, generate_ids, text_pieces
from babyllm.generation.chat_session import ChatSession
from babyllm.generation.constraints.constraint import Constraint
from babyllm.interop.huggingface import save_model
from babyllm.loading import load_chat_model
from babyllm.model.config import ModelConfig
from babyllm.model.transformer import Transformer
from babyllm.runtime import RuntimeConfig
from babyllm.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
CPU = ["--runtime.device=cpu", "--runtime.dtype=float32", "--runtime.threads=1"]


@pytest.fixture(scope="module")
def template(tokenizer: Tokenizer) -> ChatTemplate:
    return load_template("chatml", tokenizer)


def saved(directory: Path, model: Transformer, template: ChatTemplate) -> Path:
    directory.mkdir(exist_ok=True)
    save_model(directory, model, template.tokenizer)
    template.tokenizer.save(directory, chat_template=template.source)
    return directory


def talkative(config: ModelConfig) -> Transformer:
    """A random model whose next token depends on all it reads."""
    return decisive(config, seed=3)


def command(directory: Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "babyllm", "chat", str(directory), *CPU, *flags]


def piped(directory: Path, text: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(directory, *flags), input=text, capture_output=True, encoding="utf-8", cwd=ROOT, timeout=100
    )


def greedy(model: Transformer, template: ChatTemplate, messages: Sequence[Message], n: int) -> str:
    ids = generate_ids(model, template.prompt(messages), Sampling(max_new_tokens=n, temperature=0), template.end_ids)
    return "".join(text_pieces(template.tokenizer, ids))


def test_lines_of_a_file_are_answered_with_what_was_said_before(
    tmp_path: Path, tiny: Tiny, template: ChatTemplate
) -> None:
    """Of a piped input each line is a message; history, system text, /reset, /retry and joined lines decide prompts."""
    model = talkative(tiny(max_seq_len=512))
    lines = ["今天", "the model", "/retry", "/reset", "one\\", "token", "/system 北京", "", "天气", "/exit", "never"]
    flags = ["--temperature=0", "--max_new_tokens=6", "--system=小说"]
    result = piped(saved(tmp_path, model, template), "\n".join(lines), *flags)
    assert result.returncode == 0, result.stderr
    chat: list[Message] = []
    expected = []

    def ask(text: str, *before: Message) -> None:
        chat.append(Message(USER, text))
        expected.append(greedy(model, template, [*before, *chat], 6))
        chat.append(Message(ASSISTANT, expected[-1]))

    system = Message(SYSTEM, "小说")
    ask("今天", system)
    ask("the model", system)
    expected.append(expected[-1])
    chat.clear()
    ask("one\ntoken", system)
    ask("天气", Message(SYSTEM, "北京"))
    assert result.stdout == "".join(f"{text}\n" for text in expected)
    assert len(set(expected)) == 4, "the history makes a difference"
    assert not result.stderr


class Typed(io.StringIO):
    """What a person types."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("is_terminal", [True, False], ids=["terminal", "pipe"])
def test_of_several_answers_one_goes_on(
    tmp_path: Path,
    tiny: Tiny,
    template: ChatTemplate,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    is_terminal: bool,
) -> None:
    """Numbered answers, each a draw of its own and held to the constraint; the next ones follow the chosen one.

    A person is asked until a number fits, and Enter chooses the first, as is always done without a terminal.
    """
    directory = saved(tmp_path, talkative(tiny(max_seq_len=512)), template)
    text = "今天\n7\n2\nthe model\n\n公园\n" if is_terminal else "今天\nthe model\n公园\n"
    monkeypatch.setattr(sys, "stdin", (Typed if is_terminal else io.StringIO)(text))
    runtime = RuntimeConfig(device="cpu", dtype="float32", threads=1)
    run(Flags(n=2, temperature=1.5, max_new_tokens=6, seed=1, regex="[a-z]{4}", runtime=runtime), str(directory))
    shown = capsys.readouterr()
    found = re.findall(r"\[([12])\] ([a-z]{4})\n", shown.out)
    assert [number for number, _ in found] == ["1", "2"] * 3
    if is_terminal:
        assert shown.out.count("go on with [1-2, Enter for 1] ") == 4
        assert "(7: not one of the numbers 1 to 2)" in shown.err
    else:
        assert shown.err == "(without a terminal, the chat goes on with the first answer to each message)\n"
    loaded = load_chat_model(directory)
    sampling = Sampling(6, temperature=1.5, seed=1, constraint=Constraint("regex", "[a-z]{4}"))
    engine = Engine(loaded.model, slots=1, tokenizer=loaded.tokenizer)
    chat, said = ChatSession(engine, loaded.template, sampling), list[str]()
    for message, chosen in (("今天", 1 if is_terminal else 0), ("the model", 0), ("公园", 0)):
        before = chat.session
        answers = [chat.say(message), "".join(chat.retry())]
        chat.session = before.heard(message).answered(answers[chosen])
        said += answers
    assert said == [answer for _, answer in found] and len(set(said)) > 4


def test_an_answer_ends_at_the_templates_end_token(tmp_path: Path, tiny: Tiny, template: ChatTemplate) -> None:
    """Nothing is said after <|im_end|>, and the token itself is not text.

    Where nobody can say it again, a message too long for the context is an error of one line.
    """
    tokenizer = template.tokenizer
    end = tokenizer.special["<|im_end|>"]
    config = tiny(max_seq_len=100, tie_embeddings=False)
    model = chain(config, [*tokenizer.encode("今天"), end, *tokenizer.encode("公")])
    result = piped(saved(tmp_path, model, template), "a\nb\n" + "今天" * 100 + "\nc\n", "--temperature=0")
    assert (result.returncode, result.stdout) == (1, "今天\n今天\n"), result.stderr
    assert "say it in fewer words" in result.stderr and len(result.stderr.splitlines()) == 1


def test_several_ids_end_a_text(tiny: Tiny) -> None:
    """Any of the end ids ends what is generated, and is not given out."""
    model = chain(tiny(tie_embeddings=False), [20, 21, 22, 23])
    for ends, expected in (([22, 23], [20, 21]), ({21}, [20]), ((), [20, 21, 22, 23, 20])):
        assert list(generate_ids(model, [5], Sampling(max_new_tokens=5, temperature=0), ends)) == expected


@pytest.fixture
def endless(tmp_path: Path, tiny: Tiny, template: ChatTemplate) -> Path:
    """A model that says one character, spelled in three tokens, until something stops it."""
    ids = template.tokenizer.encode("龘")
    assert len(ids) == len("龘".encode())
    return saved(tmp_path / "endless", chain(tiny(max_seq_len=1200, n_layers=1, tie_embeddings=False), ids), template)


def test_answers_are_streamed_in_whole_characters(endless: Path) -> None:
    """Text arrives while the model still writes, and no read of it ends within a character."""
    flags = ["--temperature=0", "--max_new_tokens=900"]
    with subprocess.Popen(command(endless, *flags), stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdin and process.stdout
        process.stdin.write("今\n".encode())
        process.stdin.flush()
        chunks = []
        while b"\n" not in b"".join(chunks[-1:]):
            chunks.append(os.read(process.stdout.fileno(), 1 << 12))
        process.stdin.close()
    assert process.returncode == 0
    assert {char for chunk in chunks for char in chunk.decode()} == {"龘", "\n"}
    assert len(chunks) > 10 and len(b"".join(chunks)) == 901


class Terminal:
    """A chat with a terminal of its own."""

    def __init__(self, directory: Path, *flags: str) -> None:
        import pty

        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            command(directory, *flags),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            cwd=ROOT,
            env={**os.environ, "TERM": "dumb"},
        )
        os.close(theirs)
        self.seen = b""

    def until(self, is_there: Callable[[str], bool]) -> str:
        """What has been shown since the last call, as soon as it is this."""
        while not is_there(self.seen.decode(errors="ignore")):
            self.seen += os.read(self._ours, 1 << 16)
        shown, self.seen = self.seen.decode(errors="ignore"), b""
        return shown

    def interrupt(self) -> str:
        """What has been shown since the last call, as soon as Ctrl-C has led to a prompt."""
        before = self.seen.decode(errors="ignore").count("> ")
        while self.seen.decode(errors="ignore").count("> ") == before:
            self.process.send_signal(signal.SIGINT)  # readline looks at the first only when the next thing happens
            while select.select([self._ours], [], [], 0.5)[0]:
                self.seen += os.read(self._ours, 1 << 16)
        return self.until(lambda shown: True)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


@pytest.fixture
def terminal(endless: Path) -> Iterator[Terminal]:
    pytest.importorskip("pty")
    terminal = Terminal(endless, "--temperature=0", "--max_new_tokens=100000")
    yield terminal
    terminal.close()


def test_ctrl_c_stops_an_answer_and_keeps_it(terminal: Terminal) -> None:
    """The chat goes on after interrupted answers, which take their room: the third prompt leaves out the oldest.

    Mistakes are reported and end nothing; Ctrl-C at the prompt drops the line; Ctrl-D leaves.
    """
    assert "/help" in terminal.until(lambda shown: shown.endswith("> "))
    terminal.type("/retry\n/nothing\n")
    shown = terminal.until(lambda shown: "/nothing: no such command" in shown and shown.endswith("> "))
    assert "no answer to give again" in shown
    told = []
    # 150 characters are 450 tokens of a context of 1200, of which a quarter stays free for an answer.
    for n_characters in (150, 150, 1, 1):
        terminal.type("今\n")
        shown = terminal.until(lambda shown, n=n_characters: shown.count("龘") >= n)  # type: ignore[misc]
        shown += terminal.interrupt()
        told.append("the oldest part is left out" in shown)
        if len(told) == 1:
            assert shown.count("龘") < 350, "it was cut short"
    assert told == [False, False, True, False], "it is said once"
    terminal.type("今")
    assert "龘" not in terminal.interrupt()
    terminal.type("\x04")
    assert terminal.process.wait(20) == 0


def test_sigterm_ends_a_waiting_chat(terminal: Terminal) -> None:
    """A chat that waits for a line is ended by SIGTERM."""
    terminal.until(lambda shown: shown.endswith("> "))
    terminal.process.terminate()
    assert terminal.process.wait(20) == -signal.SIGTERM


def test_the_oldest_exchanges_make_room(template: ChatTemplate) -> None:
    """Whole exchanges are left out, as few as possible; the system message and the last message stay."""
    session = Session("北京大学")
    for text in ("今天", "the model reads", "公园", "小说"):
        session = session.heard(text).answered("one token after another")
    session = session.heard("what comes next")
    system = Message(SYSTEM, "北京大学")
    prompts = [template.prompt([system, *session.messages[2 * n :]]) for n in range(5)]
    assert fitting_prompt(template, session, 10_000, 100) == (prompts[0], 0)
    for n in range(4):
        assert fitting_prompt(template, session, len(prompts[n]) + 8, 8) == (prompts[n], n)
        assert fitting_prompt(template, session, len(prompts[n]) + 7, 8) == (prompts[n + 1], n + 1)
    # Where room for all the tokens asked for cannot be had, a quarter of the context will do.
    context = 2 * len(prompts[2])
    found = fitting_prompt(template, session, context, 100_000)
    assert len(found.ids) <= context - context // 4 < len(prompts[found.n_left_out - 1])
    # The last message may take even that.
    assert fitting_prompt(template, session, len(prompts[4]) + 1, 8) == (prompts[4], 4)
    with pytest.raises(UserError, match=f"{len(prompts[4])} tokens .* context has {len(prompts[4])}: say it in fewer"):
        fitting_prompt(template, session, len(prompts[4]), 8)


def test_what_the_template_puts_before_an_answer_is_no_part_of_it(tokenizer: Tokenizer) -> None:
    """Models that learned Llama-2's space write it, and it is taken off again; other templates have none."""
    leads = {name: answer_lead(load_template(name, tokenizer)) for name in ("chatml", "llama2", "llama3")}
    assert leads == {"chatml": "", "llama2": " ", "llama3": ""}


def test_what_a_template_refuses_is_told(tokenizer: Tokenizer) -> None:
    """A chat that the template cannot write down is a user's error that says why."""
    refusing = "{%- if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    template = ChatTemplate(refusing + load_template("chatml", tokenizer).source, tokenizer)
    assert fitting_prompt(template, Session().heard("a"), 100, 5).ids
    with pytest.raises(UserError, match="no system"):
        fitting_prompt(template, Session("b").heard("a"), 100, 5)


def test_a_base_model(
    tmp_path: Path,
    tiny: Tiny,
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without a saved template one line says so and ChatML is used; a vocabulary without its tokens is refused."""
    save_model(tmp_path, talkative(tiny()), tokenizer)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    run(Flags(runtime=RuntimeConfig(device="cpu", dtype="float32", threads=1)), str(tmp_path))
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1 and "has no chat template" in told and "chatml" in told
    assert load_chat_model(tmp_path).template.source == load_template("chatml", tokenizer).source
    pieces = {"<s>": 0, "</s>": 1, "a": 2}
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    save_model(foreign, talkative(tiny(vocab_size=3)), None)
    from tokenizers import AddedToken, models
    from tokenizers import Tokenizer as Rust

    rust = Rust(models.BPE(vocab=pieces, merges=[]))
    rust.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    rust.save(str(foreign / "tokenizer.json"))
    (foreign / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    with pytest.raises(UserError, match=r"foreign: its vocabulary lacks <\|im_start\|>, <\|im_end\|>"):
        run(Flags(), str(foreign))


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_an_input_in_another_encoding_is_told(
    tmp_path: Path, tiny: Tiny, template: ChatTemplate, monkeypatch: pytest.MonkeyPatch, errors: str
) -> None:
    """A piped input that cannot be read as text ends in one line that says what to do, in every locale."""
    directory = saved(tmp_path / "model", talkative(tiny()), template)
    bad = io.TextIOWrapper(io.BytesIO("今天\n".encode("gbk")), encoding="utf-8", errors=errors)
    monkeypatch.setattr(sys, "stdin", bad)
    with pytest.raises(UserError, match="the input is not utf-8 text: save it in that encoding, or name its own"):
        run(Flags(runtime=RuntimeConfig(device="cpu", threads=1)), str(directory))


def test_a_byte_order_mark_is_no_part_of_the_first_message(
    tmp_path: Path,
    tiny: Tiny,
    template: ChatTemplate,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A file that an editor began with a mark, or whose lines end as on Windows, is answered as one without."""
    directory = saved(tmp_path / "model", talkative(tiny()), template)
    flags = Flags(temperature=0, max_new_tokens=4, runtime=RuntimeConfig(device="cpu", threads=1))
    answers = []
    for text in ("今天\n", "\ufeff今天\r\n"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8"))
        run(flags, str(directory))
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1] != ""
