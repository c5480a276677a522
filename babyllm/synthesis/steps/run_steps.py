"""The engine: items through the steps of a recipe, in the order of the items and never in that of arrival."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from babyllm.dedup import Online
from babyllm.endpoint.config import Request
from babyllm.endpoint.replies import Reply
from babyllm.endpoint.shared_budget import NOT_ASKED
from babyllm.errors import UserError
from babyllm.files import json_digest
from babyllm.synthesis.made_items import Item, Rejection, StepCounts, draw
from babyllm.synthesis.recipe import Language, Recipe, Step, Variant
from babyllm.synthesis.rules.keep_rules import fault_of
from babyllm.synthesis.steps.changes import CHANGES, Setting
from babyllm.synthesis.steps.prompt_texts import form_of, rendered, schema_of
from babyllm.synthesis.steps.reply_texts import Unreadable, object_in, text_of
from babyllm.text.dedup.online.online import THRESHOLD

Ask = Callable[[Sequence[Request], Step], Iterator[Reply]]
"""A function that returns the replies to the requests of a step, in their order."""
NEAR_DUPLICATE = "near-duplicate"
_RETRY = 1_000_000  # distance of the sample numbers of a request and of its repetition


@dataclass
class Making:
    """A recipe at work: what is asked and with which settings, and what has become of the items so far.

    Attributes:
        recipe: recipe.
        language: language of the prompts.
        options: values of the recipe's options.
        ask: function that returns replies.
        price: function from a reply to its cost.
        endpoints: models of the endpoints by name.
        seed: seed of all draws.
        structured: whether requests name the JSON schema that is wanted.
        tries: number of times that a request is made whose reply cannot be read.
        has_temperature: whether the settings of the endpoints name the temperature, so that the recipe does not.
        against: texts, each with the place of its record, that the rule `new` counts as kept from the beginning.
        checks_rules: whether rules are checked; a dry run does not.
        rejections: items that go no further, in order.
        counts: what became of the items of each step.
        seen: texts that the rule `new` of each step has compared, in order; each with whether it was kept.
    """

    recipe: Recipe
    language: Language
    options: Mapping[str, Any]
    ask: Ask
    price: Callable[[Reply], float]
    endpoints: Mapping[str, str]
    seed: int = 0
    structured: bool = False
    tries: int = 1
    has_temperature: bool = False
    against: Sequence[tuple[str, str]] = ()
    checks_rules: bool = True
    rejections: list[Rejection] = field(default_factory=list)
    counts: list[StepCounts] = field(default_factory=list)
    seen: dict[str, list[tuple[str, bool]]] = field(default_factory=dict)
    _kept: dict[str, Online] = field(default_factory=dict)
    _paid: set[str] = field(default_factory=set)

    def run(self, items: Sequence[Item], steps: Sequence[Step], round: int = 0) -> list[Item]:
        """The items that go through all steps, in order."""
        found = list(items)
        for step in steps:
            found = self._rounds(found, step) if step.steps else self._step(found, step, round)
        return found

    def where(self, step: str) -> str:
        """The recipe and a step, for messages."""
        return f"{self.recipe.name}: {step}"

    def number(self, value: float | str, step: str) -> float:
        """A number of a step, which may be the name of an option.

        Raises:
            UserError: it is not a number of at least 0.
        """
        found = self.options.get(value) if isinstance(value, str) else value
        if not isinstance(found, (int, float)) or isinstance(found, bool) or not 0 <= found < math.inf:
            raise UserError(f"{self.where(step)}: {value!r} is not a number of at least 0, nor an option that is one")
        return found

    def keep(self, items: Sequence[tuple[Item, str]], keep: Mapping[str, Any], counts: StepCounts) -> list[Item]:
        """The items that fulfil rules; the others are rejected.

        Args:
            items: items, each with what the model wrote.
            keep: rules.
            counts: counts of the step.
        """
        if not self.checks_rules:
            return [item for item, _ in items]
        where = self.where(counts.name)
        fine: list[tuple[Item, str]] = []
        for item, text in items:
            reason, detail = fault_of({**self.options, **item.values}, keep, self.language, where)
            if reason:
                self.reject(Rejection(item, counts.name, reason, detail, text), counts)
            else:
                fine.append((item, text))
        return self._new(fine, keep["new"], counts) if "new" in keep else [item for item, _ in fine]

    def reject(self, rejection: Rejection, counts: StepCounts) -> None:
        """Count and store a rejection."""
        counts.reasons[rejection.reason] = counts.reasons.get(rejection.reason, 0) + 1
        self.rejections.append(rejection)

    def begin(self, name: str, n_in: int) -> StepCounts:
        """The counts of a step that begins; those of its earlier rounds go on."""
        found = next((one for one in self.counts if one.name == name), None)
        if found is None:
            self.counts.append(found := StepCounts(name))
        found.n_in += n_in
        return found

    def _new(self, items: Sequence[tuple[Item, str]], rule: Any, counts: StepCounts) -> list[Item]:
        """The items whose texts do not repeat earlier ones: the first of each kind, in the order of the items."""
        template, threshold = (rule.get("text"), rule.get("threshold")) if isinstance(rule, Mapping) else (rule, None)
        if not isinstance(template, str) or not (threshold is None or isinstance(threshold, (int, float))):
            raise UserError(f"{self.where(counts.name)}: keep.new: is a text, or has a text and a threshold")
        if counts.name not in self._kept:
            self._kept[counts.name] = Online(threshold=threshold or THRESHOLD)
            known = ((f"{i} {place}", text) for i, (place, text) in enumerate(self.against, -len(self.against)))
            self._kept[counts.name].add_many(known)
        kept = self._kept[counts.name]
        texts = [rendered(template, {**self.options, **item.values}, self.where(counts.name)) for item, _ in items]
        seen = self.seen.setdefault(counts.name, [])
        ids = [f"{i} {item.id}" for i, (item, _) in enumerate(items, len(seen))]
        matches = kept.add_many(zip(ids, texts, strict=True))
        found = []
        for (item, written), text, match in zip(items, texts, matches, strict=True):
            seen.append((text, match is None))
            if match is None:
                found.append(item)
                continue
            detail = f"{match.similarity:.2f} like {match.id.partition(' ')[2]}"
            self.reject(Rejection(item, counts.name, NEAR_DUPLICATE, detail, written), counts)
        return found

    def _rounds(self, items: list[Item], step: Step) -> list[Item]:
        every: list[Item] = []
        n = int(self.number(step.rounds, step.name))
        for round in range(n):
            items = self.run([item.with_values({"round": round + 1}) for item in items], step.steps, round)
            if step.all_rounds and round < n - 1:  # the item stays as it is, and goes on as another
                every += items
                items = [replace(item, id=f"{item.id}+", cost=0.0) for item in items]
        return [*every, *items]

    def _step(self, items: list[Item], step: Step, round: int) -> list[Item]:
        counts = self.begin(step.name, len(items))
        found = self._change(items, step, counts) if step.do else self._asked(items, step, counts, round)
        counts.n_out += len(found)
        return found

    def _change(self, items: list[Item], step: Step, counts: StepCounts) -> list[Item]:
        if step.do not in CHANGES:
            raise UserError(f"{self.where(step.name)}: do: {step.do!r} is not one of {', '.join(CHANGES)}")
        setting = Setting(self.options, self.seed, step.name, self.language)
        changed: list[tuple[Item, str]] = []
        for one in CHANGES[step.do](items, setting):
            if isinstance(one, Rejection):
                self.reject(one, counts)
            else:
                changed.append((one, ""))
        return self.keep(changed, step.keep, counts)

    def _asked(self, items: list[Item], step: Step, counts: StepCounts, round: int) -> list[Item]:
        """The items that the replies to a step's requests make, and those that skip it, in order."""
        chosen = {i: self._asking(item, step, round) for i, item in enumerate(items) if not self._skips(item, step)}
        asked = [(i, one) for i, ones in chosen.items() for one in ones]
        outcomes = self._outcomes([one for _, one in asked], step, counts)
        made: dict[int, list[Item]] = {}
        children = [(i, child, text) for (i, _), found in zip(asked, outcomes, strict=True) for child, text in found]
        kept = {id(item) for item in self.keep([(child, text) for _, child, text in children], step.keep, counts)}
        for i, child, _ in children:
            if id(child) in kept:
                made.setdefault(i, []).append(self._set(child, step))
        return [one for i, item in enumerate(items) for one in (made.get(i, []) if i in chosen else [item])]

    def _set(self, item: Item, step: Step) -> Item:
        known = {**self.options, **item.values}
        return item.with_values({name: rendered(text, known, self.where(step.name)) for name, text in step.set.items()})

    def _skips(self, item: Item, step: Step) -> bool:
        return step.unless is not None and bool(item.values.get(step.unless))

    def _asking(self, item: Item, step: Step, round: int) -> list[_Asked]:
        """The requests for one item: one, or one for each variant, endpoint and repetition."""
        variants: list[Variant | None] = list(step.variants) or [None]
        if step.variants and not step.all_variants:
            variants = [self._variant(item, step, round)]
        n = int(self.number(step.n, step.name))
        by = [()] if step.by == "any" else [(name,) for name in self.endpoints]
        if step.by not in ("any", "each"):
            by = [(step.by,)] if step.by in self.endpoints else [()]
        several = len(variants) * len(by) * n
        found = []
        for number, (variant, names, k) in enumerate((v, b, k) for v in variants for b in by for k in range(n)):
            own = replace(item, id=f"{item.id}.{number}" if several > 1 else item.id, cost=item.cost / several)
            if several > 1:
                own = own.with_values({"origin": item.id})
            if variant:
                values = {name: self._localised(value) for name, value in variant.values.items()}
                own = own.with_values({"variant": variant.name, **values})
            found.append(self._request(own, step, variant, names, item.sample * n + k))
        return found

    def _variant(self, item: Item, step: Step, round: int) -> Variant:
        weights = [self.number(one.weight, step.name) for one in step.variants]
        if not sum(weights):
            raise UserError(f"{self.where(step.name)}: the weights of all variants are 0")
        left = draw(self.seed, step.name, round, item.id) * sum(weights)
        for variant, weight in zip(step.variants, weights, strict=True):
            left -= weight
            if left < 0:
                return variant
        return next(one for one, weight in zip(step.variants, weights, strict=True) if weight)

    def _request(self, item: Item, step: Step, variant: Variant | None, names: Sequence[str], sample: int) -> _Asked:
        where = self.where(step.name)
        schema = schema_of(step.reply, where) if step.reply else None
        known = {**self.options, **item.values, **({"form": form_of(schema)} if schema else {})}
        messages = []
        if system := self._in_language(step.system, step):
            messages.append({"role": "system", "content": rendered(system, known, where)})
        if step.history:
            messages += [dict(message) for message in item.values["messages"]]
        if prompt := self._in_language((variant and variant.ask) or step.ask, step):
            messages.append({"role": "user", "content": rendered(prompt, known, where).strip()})
        options: dict[str, Any] = {}
        if step.temperature is not None and not self.has_temperature:
            options["temperature"] = step.temperature
        if schema and self.structured:
            named = {"name": step.name, "schema": schema, "strict": True}
            options["response_format"] = {"type": "json_schema", "json_schema": named}
        return _Asked(item, Request(messages, sample, options, tuple(names)), schema)

    def _localised(self, value: Any) -> Any:
        """A value of a variant; the text in the recipe's language if it has one for each."""
        return value[self.language] if isinstance(value, Mapping) and set(value) == set(get_args(Language)) else value

    def _in_language(self, text: str | Mapping[str, str] | None, step: Step) -> str:
        if not isinstance(text, Mapping):
            return text or ""
        if self.language not in text:
            raise UserError(f"{self.where(step.name)}: has no prompt for --language={self.language}")
        return text[self.language]

    def _outcomes(self, asked: Sequence[_Asked], step: Step, counts: StepCounts) -> list[list[tuple[Item, str]]]:
        """The items that each request makes, with what the model wrote; several for a list, none after a failure."""
        found: list[list[tuple[Item, str]]] = [[] for _ in asked]
        spent = [0.0] * len(asked)
        waiting = list(range(len(asked)))
        for attempt in range(self.tries):
            requests = [asked[i].request for i in waiting]
            requests = [replace(one, sample=one.sample + attempt * _RETRY) for one in requests]
            again, counts.n_requests = [], counts.n_requests + len(requests)
            for number, (i, reply) in enumerate(zip(waiting, self.ask(requests, step), strict=True)):
                own, model = asked[i], self.endpoints.get(reply.endpoint, "")
                spent[i] += self._count(reply, requests[number], counts)
                item = replace(own.item, cost=own.item.cost + spent[i], models=(*own.item.models, model))
                try:
                    if reply.error:
                        reason, detail = _failure(reply.error)
                        self.reject(Rejection(item, step.name, reason, detail), counts)
                    else:
                        found[i] = self._read(item, reply, step, own.schema)
                except Unreadable as why:
                    if attempt < self.tries - 1:
                        again.append(i)
                    else:
                        self.reject(Rejection(item, step.name, str(why), why.detail, reply.text), counts)
            waiting = again
        return found

    def _count(self, reply: Reply, request: Request, counts: StepCounts) -> float:
        """Count a reply; the cost, which is 0 where an equal request was paid for before."""
        counts.n_failed += bool(reply.error)
        counts.n_answered += not reply.error
        own = [[dict(one) for one in request.messages], request.sample, dict(request.options), reply.endpoint]
        if reply.usage is None or (key := json_digest(own)) in self._paid:
            return 0.0
        self._paid.add(key)
        counts.tokens_in += reply.usage.tokens_in
        counts.tokens_out += reply.usage.tokens_out
        counts.cost += (cost := self.price(reply))
        return cost

    def _read(self, item: Item, reply: Reply, step: Step, schema: Mapping[str, Any] | None) -> list[tuple[Item, str]]:
        """The items that a reply makes.

        Raises:
            Unreadable: it makes none.
        """
        text = text_of(reply)
        if schema is None:
            values: dict[str, Any] = {step.into: text}
            if step.append:
                before = item.values.get("messages", [])
                values["messages"] = [*before, {"role": step.append, "content": text}]
            return [(item.with_values(values), text)]
        found = object_in(text, schema)
        if step.each is None:
            return [(item.with_values(found), text)]
        elements = found.pop(step.each)
        children = []
        for number, element in enumerate(elements):
            own = element if isinstance(element, dict) else {step.into: element}
            child = replace(item, id=f"{item.id}.{number}", cost=item.cost / len(elements))
            children.append((child.with_values({**found, **own}), text))
        return children


@dataclass(frozen=True)
class _Asked:
    item: Item
    request: Request
    schema: Mapping[str, Any] | None


def _failure(error: str) -> tuple[str, str]:
    """The reason and the details of a request without a reply."""
    if error.startswith(NOT_ASKED):
        return NOT_ASKED, error.removeprefix(NOT_ASKED).lstrip(": ")
    return "request failed", error
