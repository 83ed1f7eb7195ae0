"""Selectors: what each part means, what is refused, and laws that hold for any of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpudeploy.errors import UsageError
from bpudeploy.fleet.select import Selector, labels_of, parse
from bpudeploy.spec.fleet import Fleet, FleetBoard

BOARDS = {
    "rack-1": (FleetBoard(address="a", target="rdk-x5", groups=("canary", "lab"), labels={"rack": "a"}), "bayes-e"),
    "rack-2": (FleetBoard(address="b", target="rdk-x3", groups=("lab",), labels={"rack": "b"}), "bernoulli2"),
    "desk": (FleetBoard(address="c", target="rdk-x5", labels={"owner": "eve"}), "bayes-e"),
    "car": (FleetBoard(address="d", target="rdk-s100", groups=("field",)), "nash-e"),
}


def chosen(text: str) -> str:
    selector = parse(text)
    return " ".join(name for name, (board, march) in BOARDS.items() if selector.matches(name, board, march))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("*", "rack-1 rack-2 desk car"),
        (" * ", "rack-1 rack-2 desk car"),
        ("name=desk", "desk"),
        ("name=rack-*", "rack-1 rack-2"),
        ("name=rack-?", "rack-1 rack-2"),
        ("name=RACK-1", ""),
        ("group=canary", "rack-1"),
        ("group=canary|field", "rack-1 car"),
        ("group=lab", "rack-1 rack-2"),
        ("group!=lab", "desk car"),
        ("group!=lab|field", "desk"),
        ("group=*", "rack-1 rack-2 car"),
        ("group!=*", "desk"),
        ("target=rdk-x5", "rack-1 desk"),
        ("target=rdk-x*", "rack-1 rack-2 desk"),
        ("chip=bayes-e", "rack-1 desk"),
        ("chip!=bayes-e|nash-e", "rack-2"),
        ("rack=a", "rack-1"),
        ("rack!=a", "rack-2 desk car"),
        ("rack=a|b,target=rdk-x3", "rack-2"),
        ("group=lab, chip = bayes-e", "rack-1"),
        ("group=canary,group=field", ""),
        ("nobody=has", ""),
    ],
)
def test_what_a_selector_means(text: str, names: str) -> None:
    assert chosen(text) == names


@pytest.mark.parametrize(
    ("text", "part", "hint"),
    [
        ("", "the selector '' has an empty part", "KEY=VALUE"),
        ("group=a,,chip=b", "has an empty part", "KEY=VALUE"),
        ("group=a,", "has an empty part", "keys: name, group, target, chip, owner, rack"),
        ("canary", "'canary' in the selector 'canary' is not a condition", "keys: name, group"),
        ("=a", "'=a' in", "KEY=VALUE"),
        ("a b=c", "'a b=c' in", "KEY=VALUE"),
        ("group=a,*", "'*' in", "KEY=VALUE"),
        ("group=", "'group=' has no value", "`|` between"),
        ("group=a|", "'group=a|' has no value", "`|` between"),
        ("group==a", "'=a' in 'group==a'", "use letters"),
        ("name=[ab]", "'[ab]' in 'name=[ab]'", "* and ?"),
        (
            "grup=a",
            "'grup' in the selector 'grup=a' is neither a key nor a label",
            "did you mean group? keys: name, group, target, chip",
        ),
        ("zone=a", "'zone' in the selector", "keys: name, group, target, chip, owner, rack"),
    ],
)
def test_the_wrong_part_is_named_and_the_keys_are_listed(text: str, part: str, hint: str) -> None:
    fleet = Fleet(boards={name: board for name, (board, _) in BOARDS.items()})
    with pytest.raises(UsageError) as caught:
        parse(text, labels_of(fleet))
    assert part in caught.value.message and hint in str(caught.value.hint)


def test_without_a_fleet_any_label_may_be_a_key() -> None:
    assert parse("zone=a").terms[0].key == "zone"
    with pytest.raises(UsageError) as caught:
        parse("zone")
    assert "and any label" in str(caught.value.hint)


# --- laws

words = st.from_regex(r"[a-c][a-c-]{0,2}", fullmatch=True)
boards = st.builds(
    FleetBoard,
    address=st.just("h"),
    target=words,
    groups=st.lists(words, max_size=3).map(tuple),
    labels=st.dictionaries(st.sampled_from(["rack", "owner"]), words, max_size=2),
)
keys = st.sampled_from(["name", "group", "target", "chip", "rack", "owner"])
values = st.lists(words | st.from_regex(r"[a-c*?]{1,3}", fullmatch=True), min_size=1, max_size=3).map("|".join)


def holds(text: str, name: str, board: FleetBoard, march: str) -> bool:
    return parse(text).matches(name, board, march)


@given(keys, values, words, boards, words)
def test_not_is_the_opposite(key: str, value: str, name: str, board: FleetBoard, march: str) -> None:
    assert holds(f"{key}={value}", name, board, march) != holds(f"{key}!={value}", name, board, march)


@given(st.lists(st.tuples(keys, values), min_size=1, max_size=4), words, boards, words)
def test_a_comma_is_and_in_any_order(parts: list[tuple[str, str]], name: str, board: FleetBoard, march: str) -> None:
    texts = [f"{key}={value}" for key, value in parts]
    each = all(holds(text, name, board, march) for text in texts)
    assert holds(",".join(texts), name, board, march) == each
    assert holds(",".join(reversed(texts)), name, board, march) == each


@given(keys, st.lists(values, min_size=1, max_size=3), words, boards, words)
def test_a_bar_is_or(key: str, several: list[str], name: str, board: FleetBoard, march: str) -> None:
    any_of = any(holds(f"{key}={value}", name, board, march) for value in several)
    assert holds(f"{key}={'|'.join(several)}", name, board, march) == any_of


@given(st.lists(st.tuples(keys, st.sampled_from(["=", "!="]), values), min_size=1, max_size=3))
def test_what_is_parsed_is_written_and_parsed_again(parts: list[tuple[str, str, str]]) -> None:
    selector = parse(" , ".join(f"{key} {sign} {value}" for key, sign, value in parts))
    assert parse(selector.text) == selector


@given(st.text(max_size=20))
def test_any_text_is_a_selector_or_a_usage_error(text: str) -> None:
    try:
        assert isinstance(parse(text), Selector)
    except UsageError as error:
        assert error.hint
