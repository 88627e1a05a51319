"""Texts of YAML and JSON: what they stand for, and what is refused, in seconds whatever they are."""

from __future__ import annotations

import pytest

from common.config.parsing import parse
from common.errors import UserError


def bomb(levels: int, mapping: bool) -> str:
    """A text of a few lines that stands for ten to the power of `levels` values."""

    def line(inner: str) -> str:
        return (
            f"{{{', '.join(f'k{i}: {inner}' for i in range(10))}}}"
            if mapping
            else f"[{', '.join(10 * [inner])}]"
        )

    lines = [f"a0: &a0 {line('x')}"]
    return "\n".join(lines + [f"a{level}: &a{level} {line(f'*a{level - 1}')}" for level in range(1, levels)])


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("a: 1e3\nb: 1E-3\nc: 1.5e+2\nd: .5\ne: 2.", {"a": 1000, "b": 0.001, "c": 150, "d": 0.5, "e": 2}),
        ("a: '1e3'\nb: \"2023_01\"\nc: 'yes'\nd: '~'", {"a": "1e3", "b": "2023_01", "c": "yes", "d": "~"}),
        ("a: 10\nb: -3\nc: 30_000\nd: +5", {"a": 10, "b": -3, "c": 30_000, "d": 5}),
        ("a: true\nb: False\nc: null\nd: ~\ne:", {"a": True, "b": False, "c": None, "d": None, "e": None}),
        ("a: yes\nb: off\nc: NO\nyes: d", {"a": "yes", "b": "off", "c": "NO", "yes": "d"}),
        ("[010, 0x10, 1:30, 1_0, 2023_01]", ["010", "0x10", "1:30", "1_0", "2023_01"]),
        ("[2023-01-01, 1.2.3, None, 1e]", ["2023-01-01", "1.2.3", "None", "1e"]),
        ("a: &x {b: 1}\nc: {<<: *x, b: 2}\nd: *x", {"a": {"b": 1}, "c": {"b": 2}, "d": {"b": 1}}),
        ('{"a": "\\ud83d\\ude00", "b": 1e3}', {"a": "😀", "b": 1000.0}),
        ('{"a": [1],}', {"a": [1]}),
        ("# nothing", None),
        ("", None),
    ],
)  # fmt: skip
def test_texts_mean_what_they_look_like(text: str, content: object) -> None:
    assert parse(text, "file") == content


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: 1\nb: 2\n\na: 3", "file: the key a is given twice, in lines 1 and 4: only one"),
        ("a:\n  b: 1\n  'b': 2", "the key b is given twice, in lines 2 and 3"),
        ("{a: 1, a: 1}", "the key a is given twice, in line 1"),
        ('{"a": 1,\n "a": 1}', "the key a is given twice, in lines 1 and 2"),
        ("x: &x {}\ny: {<<: *x, <<: *x}", "the key << is given twice, in line 2"),
        ("? a\n: 1\n? a\n: 2", "the key a is given twice, in lines 1 and 3"),
        ("1: a", "file, line 1: the key 1 is no text: put it in quotes"),
        ("a: {null: 1}", "the key null is no text"),
        ("[a]: 1", "a key is no text"),
        ("a: &x [*x]", "file, line 1: an alias stands for what it is part of"),
        ("a: &x {b: *x}", "an alias stands for what it is part of"),
        ("a: 1\n---\nb: 1", "file is no valid YAML: expected a single document"),
        ("a: [", "file is no valid YAML: .*, line 2"),
        ("a: b: c", "file is no valid YAML: .*, line 1"),
        ("a:\n\tb: 1", "line 2: indent it by spaces, not by tabs$"),
        ("a:\n  b: 1\n   c: 2", "line 3; is it indented as its neighbours are"),
        ("a: *b", "file is no valid YAML: found undefined alias, line 1"),
        ("a: !!python/object/apply:os.getpid []", "could not determine a constructor for the tag"),
        ("a: !!set {b, c}", "could not determine a constructor for the tag"),
        ("a: !!binary aGk=", "could not determine a constructor for the tag"),
        ("a: !!int b", "file is no valid YAML: invalid literal for int"),
        ("a: \x07", "file is no valid YAML: unacceptable character"),
        ("a: " + 5000 * "9", "file is no valid YAML: Exceeds the limit"),
        (bomb(9, mapping=False), "file, line 6: what stands there is more than 200000 values"),
        (bomb(9, mapping=True), "file, line 6: what stands there is more than 200000 values"),
        (f"a: {[*range(400_000)]}", "file: what stands there is more than 200000 values|more than 5000000"),
        ("[" * 100_000 + "]" * 100_000, "file is no configuration: it has more than 50 lists and mappings"),
        ("{a: " * 100_000, "file is no configuration: it has more than 50 lists and mappings"),
        ("a: " + "[" * 100 + "]" * 100, "file is no configuration: it has more than 50 lists and mappings"),
        ('{"a": ' + "[" * 100 + "]" * 100 + "}", "file is no configuration: it has more than 50"),
        ("#" * 6_000_000, "file is no configuration: it has more than 5000000 characters"),
    ],
    ids=lambda text: text[:30],
)  # fmt: skip
def test_what_is_ambiguous_or_too_large_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        parse(text, "file")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
