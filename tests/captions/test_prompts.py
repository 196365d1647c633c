"""What is taken out of prompts, row by row, and that their words stay."""

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from microdiff.captions.prompts import RULES, strip_parameters, touched_rules

FLAGS = [
    ("a cat --ar 3:2 --v 5 --q 2 --no text", "a cat"),
    ("a cat, --ar 16:9 --niji 5 --style expressive --s 750", "a cat"),
    ("a cat --aspect 2:3 --version 5.1 --quality .5 --stylize 100 --chaos 20 --seed 1234 --stop 90 --hd", "a cat"),
    ("a cat--ar 3:2--v 4", "a cat"),
    ("a cat --s750 --ar9:16 --testp --creative --upbeta --tile", "a cat"),
    ("a cat --no text, people --ar 2:3", "a cat"),
    ("a cat --ar 3:2, in the rain", "a cat, in the rain"),
    ("a cat —ar 3:2 –v 5 –-seed 1", "a cat"),
    ("a cat --sref https://x.com/a.png https://b.com/c.png --cw 50 --p abcd12", "a cat"),
    ("a cat --ar 16:", "a cat"),
    ("a cat --ar", "a cat"),
    ("a cat --", "a cat"),
    ("a cat -- a dog, well-known --style raw", "a cat -- a dog, well-known"),
    ("he said --no, —no way — a dog --foo 3 --vast", "he said --no, —no way — a dog --foo 3 --vast"),
    ("the car drives --fast-- and far", "the car drives --fast-- and far"),
    ("a beach -- no people in sight", "a beach -- no people in sight"),
    ("a beach – no people, a house — no roof", "a beach – no people, a house — no roof"),
    ("a beach –-no people --v 5", "a beach"),
    ("a cat --s 1,000 --seed 1,000,000, in rain", "a cat, in rain"),
    ("a cat --ar 3:2,8k", "a cat,8k"),
    ("a cat , ; --niji  , --v 5 dog", "a cat, dog"),
    ("ratio 3:2, v 5, no text", "ratio 3:2, v 5, no text"),
]
IMAGE_PROMPTS = [
    ("https://s.mj.run/abc https://cdn.discord.com/x.png a red barn", "a red barn"),
    ("<https://s.mj.run/abc> a red barn", "a red barn"),
    ("/imagine prompt: a red barn", "a red barn"),
    ("a red barn https://a.com/b", "a red barn https://a.com/b"),
]
NETWORKS = [
    ("fur, <lora:fur:0.8>, cat", "fur, cat"),
    ("<lora:绪儿XL 丝路 dress:0.9> a cat <hypernet:x:1> <lora:a: 0.65>", "a cat"),
    ("a cat, embedding:easynegative", "a cat"),
    ("red<lora:x:1>barn <lora:y:1>, snow", "red barn, snow"),
    ("a cat, (embedding:x:1.2), embedding:bad-hands:0.5 dog", "a cat dog"),
    ("<a cat> <lorry>", "<a cat> <lorry>"),
]
WEIGHTS = [
    ("a cat::2 a dog::-0.5 bird::1", "a cat a dog bird"),
    ("photorealistic ::5 no people ::.2", "photorealistic no people"),
    ("moody :: studio ghibli, beeple:: ornate", "moody, studio ghibli, beeple, ornate"),
    ("sand::box::", "sand, box"),
    ("1.2::masterpiece::, 1girl, 1.1::long hair::", "masterpiece, 1girl, long hair"),
]
EMPHASIS = [
    ("a fluffy (word:1.3), (red barn: 0.8) [bird]", "a fluffy word, red barn bird"),
    ("((masterpiece)), (((best quality))), ( ( fox ) ), {{cute}}", "masterpiece, best quality, fox, cute"),
    ("((word:1.2)) ((a) b)", "word ((a) b)"),
    ("[cat:dog:0.5] [cow|horse] {a|b} [armor::0.5]", "cat dog cow, horse a, b armor"),
    ("a(yellow:1.1)b (x:1)BREAK", "a yellow b x"),
    ("(red:1.2)(barn:1.3)", "red barn"),
    ("[red][barn]{house}(snow:1.1)", "red barn house snow"),
    ("((red))((barn)) [[a]][[b]]", "red barn a b"),
    ("[cat:dog:10], [snow::20] [Ezra 3:16:10]", "cat dog, snow Ezra 3:16:10"),
    ("[a   |  b|c][d]", "a, b, c d"),
    (r"saber \(fate\) (word:1.3)", "saber (fate) word"),
    (
        "(London) (16:9) (John 3:16) (at 10:30) (aspect ratio 16:9)",
        "(London) (16:9) (John 3:16) (at 10:30) (aspect ratio 16:9)",
    ),
    ("a cat :) or :( (unbalanced", "a cat :) or :( (unbalanced"),
]
BREAKS = [
    ("a cat BREAK a dog, BREAK, a cow", "a cat a dog, a cow"),
    ("PRISON BREAK poster, break of dawn", "PRISON BREAK poster, break of dawn"),
    ("COFFEEBREAK BREAKFAST", "COFFEEBREAK BREAKFAST"),
]
SPLIT_DIGITS = [
    ("portrait, 3 5 mm, 8 k, 3 d render", "portrait, 35mm, 8k, 3d render"),
    ("a 1 9 3 0 s dress, 1 9 th century, cyberpunk 2 0 7 7", "a 1930s dress, 19th century, cyberpunk 2077"),
    ("a man 3 5 years old, 2 people", "a man 35 years old, 2 people"),
    ("r 2 d 2 and c 3 p o, 4 k", "r 2 d 2 and c 3 p o, 4k"),
    ("unreal engine 5 8 k", "unreal engine 5 8k"),
    ("5 4 k, 3 2 k, 1 6 k", "5 4k, 32k, 16k"),
    ("octane render 8 k 3 d", "octane render 8k 3d"),
    ("8 k 4 k hd", "8k 4k hd"),
    ("unreal engine 5 3 5 mm", "unreal engine 5 3 5 mm"),
    ("tic tac toe 1 2 3", "tic tac toe 1 2 3"),
    ("the 2 1 st and 1 3 th of 1 0 8 0 p, 9 0 s", "the 21st and 13th of 1080p, 90s"),
    ("a 5 s, 1 7 p, 4 1 th", "a 5 s, 1 7 p, 4 1 th"),
    ("A Portrait, 3 5 mm, 8 k", "A Portrait, 3 5 mm, 8 k"),
    ("3 5 mm, 4k", "3 5 mm, 4k"),
    ("aug 1 7 2 0 2 2, 8 k", "aug 1 7 2 0 2 2, 8k"),
]
ROWS = {
    "flags": FLAGS,
    "image_prompts": IMAGE_PROMPTS,
    "networks": NETWORKS,
    "weights": WEIGHTS,
    "emphasis": EMPHASIS,
    "breaks": BREAKS,
    "split_digits": SPLIT_DIGITS,
}


@pytest.mark.parametrize(("rule", "before", "after"), [(rule, *row) for rule, rows in ROWS.items() for row in rows])
def test_row(rule: str, before: str, after: str) -> None:
    assert strip_parameters(before) == after
    assert strip_parameters(after) == after
    assert (rule in touched_rules(before)) == (before != after)


def test_every_rule_has_rows() -> None:
    assert ROWS.keys() == RULES.keys()


def test_a_text_without_parameters_is_not_touched() -> None:
    text = "  A  (London) photo,  f/2.8 -- by J. Doe\n"
    assert strip_parameters(text) == text
    assert touched_rules(text) == []


WORD = st.sampled_from(["cat", "barn", "snow", "Paris", "猫", "мост", "été", "red"])
DRESSED = st.one_of(
    WORD,
    WORD.map("({}:1.2)".format),
    WORD.map("[{}]".format),
    WORD.map("(({}))".format),
    WORD.map("{}::2".format),
    WORD.map("({})".format),
)
PARAMETERS = st.lists(st.sampled_from(["--ar 3:2", "--v 5", "--q 2", "--tile", "--s 750", "--no 123"]), max_size=4)


@settings(max_examples=300, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(DRESSED, min_size=1, max_size=8), st.sampled_from([" ", ", "]), PARAMETERS)
def test_all_words_stay_and_all_parameters_go(words: list[str], between: str, parameters: list[str]) -> None:
    prompt = between.join(words)
    stripped = strip_parameters(f"{prompt} {' '.join(parameters)}")
    assert re.findall(r"[^\W\d_]+", stripped) == re.findall(r"[^\W\d_]+", prompt)
    assert not re.search(r"--|:\d|\[|\(\(", stripped)
