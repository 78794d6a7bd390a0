"""A conversation becomes text by its tokenizer's chat template, and what the assistant says is found in it again."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from tunewise.errors import PromptError, did_you_mean
from tunewise.prompts.row import Row, as_json, room
from tunewise.prompts.sandbox import SANDBOX, Request
from tunewise.prompts.template import refuse_long

ROLES = ("system", "user", "assistant")
GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")


@dataclass(frozen=True)
class ChatMessage:
    """One turn; an assistant's turn with the weight 0 is read, not learnt."""

    role: str
    content: str
    weight: int = 1


@dataclass(frozen=True)
class Conversation:
    """Turns in their order; a malformed one cannot be made."""

    id: str
    messages: tuple[ChatMessage, ...]

    def __post_init__(self) -> None:
        check_conversation(self.messages, name=f"conversation '{self.id}'")


def check_conversation(messages: Sequence[ChatMessage], *, name: str = "conversation") -> None:
    """Raises PromptError unless a user and an assistant speak in turns, after a system's message or none."""
    if not messages:
        raise PromptError(f"{name}: has no messages; it needs a user's at least.")
    expected = "user"
    for i, message in enumerate(messages, 1):
        where = f"{name}, message {i}"
        if message.role not in ROLES:
            raise PromptError(f"{where}: there is no role '{message.role}'.{did_you_mean(message.role, ROLES)}")
        if message.weight not in (0, 1) or isinstance(message.weight, bool):
            raise PromptError(f"{where}: `weight` is 0 (read) or 1 (learnt), got {message.weight!r}.")
        if message.role == "system" and i == 1:
            continue
        if message.role != expected:
            raise PromptError(_out_of_turn(where, message.role, expected, first=expected == "user" and i <= 2))
        if message.role == "assistant" and not message.content.strip():
            raise PromptError(f"{where}: the assistant says nothing. Give it a text, or take the turn out.")
        expected = "assistant" if expected == "user" else "user"
    if messages[-1].role == "system":
        raise PromptError(f"{name}: has a system's message only; it needs a user's at least.")


def _out_of_turn(where: str, found: str, expected: str, *, first: bool) -> str:
    if found == "system":
        return f"{where}: a system's message stands first or not at all. Move it to the start."
    if first:
        return f"{where}: the assistant speaks first; a conversation starts with the user. Take the turn out."
    return f"{where}: two turns of the {found} in a row; the {expected} comes next. Join them, or add the turn between."


@dataclass(frozen=True)
class AssistantTurn:
    """Where a turn of the assistant stands in the text, with all that the model is to write of it."""

    start: int
    end: int
    weight: int


@dataclass(frozen=True)
class RenderedChat:
    """A conversation as text."""

    text: str
    turns: tuple[AssistantTurn, ...]
    neutralised: int
    """How many control tokens stood in what the user says, and were broken up."""


@dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """A tokenizer's chat template with what it is rendered with."""

    source: str
    name: str = "chat template"
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    """By the names templates know them by: `bos_token`, `eos_token`, ..."""
    control_tokens: tuple[str, ...] = ()
    """Texts that the tokenizer reads as one token of its own; the user's words must not."""
    now: str | None = None
    """The date, ISO 8601, for templates that print it; None: the time of rendering."""

    def __post_init__(self) -> None:
        refuse_long(self.source, self.name)

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, *, name: str, now: str | None = None) -> Self:
        """The template that comes with a transformers tokenizer.

        Raises:
            PromptError: it has none.
        """
        source = getattr(tokenizer, "chat_template", None)
        if isinstance(source, Mapping):
            source = source.get("default")
        if not source:
            raise PromptError(
                f"{name}: the base has no chat template, so it was not trained to converse. Render its prompts "
                "plainly, with a template that reads the fields of a row."
            )
        return cls(
            source=source,
            name=name,
            special_tokens={key: str(token) for key, token in tokenizer.special_tokens_map.items()},
            control_tokens=control_tokens(tokenizer),
            now=now,
        )

    @property
    def marks_generation(self) -> bool:
        """Whether the template itself says what the assistant writes, by `{% generation %}`."""
        return GENERATION.search(self.source) is not None


def control_tokens(tokenizer: Any) -> tuple[str, ...]:
    """Texts that a transformers tokenizer reads as one token of its own, and that are no words."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return tuple(dict.fromkeys([*tokenizer.all_special_tokens, *added]))


def render_chats(
    template: ChatTemplate,
    conversations: Sequence[Conversation],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> list[RenderedChat]:
    """Whole conversations, to learn from, with where the assistant's turns stand.

    They are found by `{% generation %}` in the template; else by rendering the conversation up to each turn, which
    needs a template that never changes what it has written.

    Raises:
        PromptError: the template fails, or where the turns stand cannot be told.
    """
    plans = [_Plan(template, conversation, tools) for conversation in conversations]
    answers = iter(_run(template, [request for plan in plans for request in plan.requests]))
    return [plan.finished([next(answers) for _ in plan.requests]) for plan in plans]


def render_prompts(
    template: ChatTemplate,
    conversations: Sequence[Conversation],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> list[RenderedChat]:
    """Conversations that end with the user, up to where the assistant begins to answer.

    Raises:
        PromptError: a conversation ends with the assistant, or the template fails.
    """
    requests, counts = [], []
    for conversation in conversations:
        if conversation.messages[-1].role == "assistant":
            raise PromptError(
                f"{template.name}: conversation '{conversation.id}' ends with the assistant; to be answered it must "
                "end with the user. Take the last turn out."
            )
        messages, count = _messages(template, conversation)
        requests.append(_request(template, conversation, messages, tools, answering=True))
        counts.append(count)
    answers = _run(template, requests)
    return [RenderedChat(answer["text"], (), count) for answer, count in zip(answers, counts, strict=True)]


class _Plan:
    """What is rendered of one conversation, and how its turns are read off."""

    def __init__(
        self, template: ChatTemplate, conversation: Conversation, tools: Sequence[Mapping[str, Any]] | None
    ) -> None:
        self._template, self._conversation = template, conversation
        messages, self._neutralised = _messages(template, conversation)
        self._assistant = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        self.requests = [_request(template, conversation, messages, tools)]
        if not template.marks_generation:
            for i in self._assistant:
                self.requests.append(_request(template, conversation, messages[:i], tools, answering=True))
                self.requests.append(_request(template, conversation, messages[: i + 1], tools))

    def finished(self, answers: Sequence[Mapping[str, Any]]) -> RenderedChat:
        text = answers[0]["text"]
        turns = self._marked(answers[0]) if self._template.marks_generation else self._by_prefixes(text, answers[1:])
        return RenderedChat(text, turns, self._neutralised)

    def _marked(self, answer: Mapping[str, Any]) -> tuple[AssistantTurn, ...]:
        weights = [self._conversation.messages[i].weight for i in self._assistant]
        spans = answer["spans"]
        if spans is None or (len(spans) != len(weights) and (not spans or len(set(weights)) > 1)):
            raise PromptError(
                f"{self._template.name}: of conversation '{self._conversation.id}' it marks {len(spans or [])} parts "
                f"with {{% generation %}}, and the assistant has {len(weights)} turns, so which is which cannot be "
                "told. Put one {% generation %} block around each turn, outside of macros."
            )
        if len(spans) != len(weights):
            weights = [weights[0]] * len(spans)
        return tuple(AssistantTurn(start, end, weight) for (start, end), weight in zip(spans, weights, strict=True))

    def _by_prefixes(self, text: str, answers: Sequence[Mapping[str, Any]]) -> tuple[AssistantTurn, ...]:
        turns = []
        for k, i in enumerate(self._assistant):
            before, after = answers[2 * k]["text"], answers[2 * k + 1]["text"]
            if not (after.startswith(before) and text.startswith(after)):
                raise PromptError(
                    f"{self._template.name}: of conversation '{self._conversation.id}' it writes message {i + 1} "
                    "differently once more follows, so where the assistant's turns stand cannot be told. Use a "
                    "template that marks them with {% generation %}, or conversations with one turn of the assistant."
                )
            message = self._conversation.messages[i]
            turns.append(AssistantTurn(len(before), _end_of_turn(text, len(after), message.content), message.weight))
        return tuple(turns)


def _end_of_turn(text: str, end: int, content: str) -> int:
    """Without the blanks after a closing token: the model stops at the token and never writes them."""
    trimmed = len(text[:end].rstrip())
    return end if text[:trimmed].endswith(content.rstrip()) else trimmed


def _messages(template: ChatTemplate, conversation: Conversation) -> tuple[list[dict[str, str]], int]:
    messages, found = [], 0
    for message in conversation.messages:
        content = message.content
        if message.role == "user":
            content, here = neutralise(content, template.control_tokens)
            found += here
        messages.append({"role": message.role, "content": content})
    return messages, found


def _request(
    template: ChatTemplate,
    conversation: Conversation,
    messages: Sequence[Mapping[str, str]],
    tools: Sequence[Mapping[str, Any]] | None,
    *,
    answering: bool = False,
) -> Request:
    fields = {
        **template.special_tokens,
        "messages": list(messages),
        "tools": None if tools is None else list(tools),
        "documents": None,
        "add_generation_prompt": answering,
    }
    text = as_json(Row(conversation.id, fields), name=template.name)
    return Request(f'{{"fields": {text}, "room": {room(text)}}}', conversation.id, tuple(fields), "conversation")


def _run(template: ChatTemplate, requests: Sequence[Request]) -> list[dict[str, Any]]:
    now = template.now or datetime.now().isoformat()
    job = {"do": "chat", "dialect": "chat", "source": template.source, "now": now}
    return SANDBOX.run(job, requests, name=template.name)


def neutralise(text: str, control_tokens: Collection[str]) -> tuple[str, int]:
    """The text with every control token broken up by a space after its first character, and how many there were.

    `<|im_end|>` becomes `< |im_end|>`: a person reads the same, taking the space out gives the text back, and no
    tokenizer sees its token, whatever it normalises. Invisible characters would not do: some tokenizers drop them.
    Tokens of one character, and those that a space does not break, such as two spaces, are left.
    """
    broken = (token for token in control_tokens if len(token) > 1 and token not in f"{token[0]} {token[1:]}")
    tokens = sorted(broken, key=len, reverse=True)
    if not tokens:
        return text, 0
    pattern = re.compile("|".join(map(re.escape, tokens)))
    found = 0
    # once more, since the rest of one token may begin the next
    while here := len(pattern.findall(text)):
        found += here
        text = pattern.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)
    return text, found
