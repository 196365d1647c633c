"""The gentle caption cleaner, row by row."""

import pytest

from microdiff.captions import clean_caption_light

KEPT = [
    ("A Photo of Big Ben (London), 4K!", "A Photo of Big Ben (London), 4K!", "case, digits and brackets stay"),
    ("一只猫 and кот and قطة", "一只猫 and кот and قطة", "every script stays"),
    ("Epson L818, 5x7, #8, 1234567", "Epson L818, 5x7, #8, 1234567", "so do names, sizes and numbers"),
    ("“curly” ｗｉｄｅ ﬁ", "“curly” ｗｉｄｅ ﬁ", "so do quotes, widths and ligatures"),
    ("7'' and ''Be our guest''", "7'' and ''Be our guest''", "also quotes of two apostrophes"),
    ("Yahoo! --no way-- a [red] {barn} (big:2)", "Yahoo! --no way-- a [red] {barn} (big:2)", "this is no prompt"),
    (None, "None", "what is no string is turned into one"),
    (12, "12", "also numbers"),
]
BRACKETS = [
    ("a portrait of <a woman in a red dress> in the rain", "a portrait of a woman in a red dress in the rain", ""),
    ("<Title> of the film", "Title of the film", "an element that is not closed is a word"),
    ("x <y and y> z", "x y and y z", "no element"),
    ("photo of <my-dog> on a beach", "photo of my-dog on a beach", "no element"),
    ("photo of &lt;my-dog&gt; on a beach", "photo of my-dog on a beach", "also escaped"),
    ("&lt;a man&gt; on a &amp;lt;map&amp;gt;", "a man on a map", "also escaped twice"),
    ("<猫> and <кот> and <2 dogs>", "猫 and кот and 2 dogs", "in every script"),
    ("<cat>meow</cat>", "cat meow cat", "words do not run together"),
    ("a <red>barn", "a red barn", "nor here"),
    ('<<hello>> <"quoted"> <@somebody>', 'hello "quoted" @somebody', "several, and before marks"),
    ("<a hidden door> <button> <video game> <i love you>", "a hidden door button video game i love you", "attributes"),
    ("runner on a <track>, the <source> of a river", "runner on a track, the source of a river", "void, but useless"),
    (
        "<table size> <time flies> <map of the world>",
        "table size time flies map of the world",
        "attributes lack values",
    ),
    ("a < b <3 and x<y", "a < b <3 and x<y", "not every sign is a bracket"),
    ("x <5 and y> 3, x <5 and y>3", "x 5 and y 3, x <5 and y>3", "nor is a comparison without blanks"),
    ("(>_<) <- -> => <= 5 > 3 < 4", "(>_<) <- -> => <= 5 > 3 < 4", "nor are faces and arrows"),
    ("I <3 my dog -> he <3 me", "I <3 my dog -> he <3 me", "nor hearts"),
    ("Sale! <<< 50% off >>>", "Sale! <<< 50% off >>>", "nor are decorations"),
    ("vector<int> <<<a>b>", "vector int <a b", "words never run together"),
    ("<😀 smile> and <i love", "😀 smile and <i love", "also before emoji"),
    ("<!wow> that", "!wow that", "no declaration"),
]
MARKUP = [
    ("Jungle<br>Hawaiian H<sub>2</sub>O", "Jungle Hawaiian H2O", "some tags part words"),
    ("&lt;b&gt;bold&lt;/b&gt; text", "bold text", "escaped tags go, too"),
    ("Scarf<p>Black<br/>red<hr>blue", "Scarf Black red blue", "void, and left open by many pages"),
    ("<b>bold text", "bold text", "formatting, cut off before it is closed"),
    ("<title>The film</title> <SPAN>x</SPAN>", "The film x", "closed later, in any case"),
    ("<picture quality=hd+ mode='attention grabbing'>an adorable robot</picture>", "an adorable robot", "values"),
    ('<div class=""source""></div><div class=""desc"">The cast', "The cast", "quotes doubled by a CSV file"),
    (
        '<img src="a.jpg" alt="a > b"> cat <input type=checkbox checked>',
        "cat",
        "a mark in a value, a boolean attribute",
    ),
    ('a <a href="http://x.com/y">red</a> <a href=http://x.com/>barn', "a red barn", "a link is formatting"),
    ("2011<strong style = 'color:#635a27'></strong>)<bR /> print", "2011) print", "blanks around the sign, capitals"),
    ("x </b></i> y </td>", "x y", "end tags alone"),
    ("a<!-- <b>no</b> -->b <script>if (a<b) {}</script>c", "ab c", "comments and scripts go with what they hold"),
    ("a <style type='text/css'>p {x: y}</style>b", "a b", "so do style sheets"),
    ("a <!-- b", "a <!-- b", "unless they never end"),
    ("<!DOCTYPE html><?xml version='1.0'?><![if IE]>a<![endif]> cat", "a cat", "declarations"),
    ('<svg><path d="M0 0"/></svg> icon, a <path> in a <line>', "icon, a path in a line", "SVG draws with attributes"),
    ("<o:p></o:p><st1:city>Paris</st1:city> <a:b>", "Paris a:b", "what a word processor leaves"),
    ("cat <![CDATA[on a mat]]> here", "cat on a mat here", "the text in a section stays"),
    ("<PERSON> and <person>", "person and person", "the mark for a name is read as the word"),
    ('mat <a href="http://x', "mat", "cut off in a value"),
    ("mat <img src='a.jpg' alt=\"a red barn", "mat", "cut off in the second value"),
    ("mat <a hre", "mat", "cut off in an attribute"),
    ("mat <br", "mat", "cut off in a tag"),
    ("mat <div", "mat", "cut off in a tag"),
    ("mat</b", "mat", "cut off in an end tag"),
    ("mat </", "mat", "cut off in an end tag"),
    ("a <a man", "a <a man", "but words are no attributes"),
    ("x <b", "x <b", "nor is a letter a tag"),
    ("%3Cb%3Ered%3C/b%3E barn", "red barn", "behind percent escapes"),
    ("%3Cp%3ERed%20barn%3C%2Fp%3E", "Red barn", "also with all its marks escaped"),
    ("%26lt%3Bi%26gt%3Bred%20barn", "red barn", "and twice"),
    ("A%20%3Ca%20href=%22http://x.com/y%22%3Ered%3C/a%3E barn", "A red barn", "with a URL in it"),
    ("<!--> red barn <!-- x -->", "red barn", "an empty comment"),
    ("<!---> red <!-- b --!> barn", "red barn", "another, and one that ends oddly"),
    ("red barn <font / ", "red barn", "cut off, with blanks behind it"),
    ("café <br / > lait <br//>x <p / / >y", "café lait x y", "slashes and blanks"),
]
URLS = [
    ("see http://a.example/c。红色的猫在这里", "红色的猫在这里", "a URL ends before what cannot stand in it"),
    ("http://a.cn/b红色的猫", "红色的猫", "so it does without punctuation"),
    ("https://en.wikipedia.org/wiki/Alien_(film) poster", "poster", "brackets that it opens belong to it"),
    ("a barn (see https://a.com/x) in snow", "a barn in snow", "those around it do not, and go with it"),
    ("a barn (https://a.com/x_(y)) in snow", "a barn in snow", "both kinds"),
    ("a barn <https://a.com/x> in snow", "a barn in snow", "angle brackets, too"),
    ("He said “https://a.com/x” loudly", "He said loudly", "and quotes"),
    ("Red shoes at http://x.com, and blue hats at http://y.com.", "Red shoes, and blue hats.", "sentence marks stay"),
    ("A. See http://x.com! A cat?", "A. A cat?", "what leads to it goes"),
    ("See https://a.com/x?y=1, www.b.org/z. Or (http://c.de).", "", "if nothing else is said, nothing is left"),
    ("look at cats.com/a/b.jpg", "look", "without a scheme, if they have a path"),
    ("Amazon.com and joe@cats.com", "Amazon.com and joe@cats.com", "names and addresses stay"),
    ("W3C.org and/or 1.5/2.5 U.S./Canada", "W3C.org and/or 1.5/2.5 U.S./Canada", "these are none"),
    ("a cat bit.ly/3xY youtu.be/abc", "a cat", "nor are shortened ones forgotten"),
    ("HTTP://A.COM/B Www.a.com a cat", "a cat", "in capitals"),
    ("Sourcehttp://a.com/b", "Source", "glued to a word"),
    ("file:///C:/a.jpg cat data:image/png;base64,iVBORw0KGgo= dog", "cat dog", "files and data"),
    ("cat at joe@a.com/b, //a.com, data: 5/7", "cat at joe@a.com/b, //a.com, data: 5/7", "these are none"),
    ("cat http://a.com:8080/b;c=d?e=f&g#h!", "cat!", "port, parameters, fragment"),
    ("cat http://a.com/Eguisheim-©-Alsace.jpg?x=1 dog", "cat dog", "a path that should have been escaped"),
    ("[My cat](https://a.com/b_(c)) ![alt](http://a.com/b.png)", "My cat alt", "Markdown"),
    ("<https://a.com/b|My cat> here", "My cat here", "chats"),
    ("a rtsp://a.com/b red s3://b/c cat", "a red cat", "other schemes"),
    ("[url=http://a.com]My cat[/url] [img]http://a.com/b.jpg[/img]", "My cat", "forums"),
    ("Title | https://a.com/b.jpg", "Title", "separators go"),
    ("https://a.com/b.jpg - Title", "Title", "on either side"),
    ("Title - https://a.com/b.jpg - Subtitle", "Title - Subtitle", "but one stays between words"),
]
DANGLING = [
    ("party favors from http://a.com/b", "party favors"),
    ('"""Alice"" Backpack by Loungefly (Black) - www.inkedshop.com"', '"Alice" Backpack by Loungefly (Black)'),
    ('Backpack (Black) - "http://a.com/b', "Backpack (Black)"),
    ("sinful healthy chocolate Full review at www.cookwith5kids.com", "sinful healthy chocolate"),
    ("A barn. Read more at http://a.com", "A barn."),
    ("A barn. Find out more on our website: www.a.com", "A barn."),
    ("Great shoes. For more information visit our website: www.abc.com!", "Great shoes."),
    ("A barn, source: http://a.com", "A barn"),
    ("A barn. Photo credit: http://a.com", "A barn."),
    ("Image from http://a.com shows a barn", "Image shows a barn"),
    ("The water source http://a.com", "The water source"),
    ("Places to visit: http://a.com", "Places to visit"),
    ("Jane Doe photo via http://a.com", "Jane Doe photo"),
    ("What to see in Paris: http://a.com", "What to see in Paris"),
    ("Best Photos and Images http://a.com", "Best Photos and Images"),
    ("Garage sale at Best Buy http://a.com", "Garage sale at Best Buy"),
    ("eine rote Scheune, Quelle: http://a.de", "eine rote Scheune"),
    ("eine rote Scheune von http://a.de", "eine rote Scheune"),
    ("une grange rouge sur http://a.fr", "une grange rouge"),
    ("Une grange. En savoir plus : http://a.fr", "Une grange."),
    ("un granero rojo en http://a.es", "un granero rojo"),
    ("un granero. Más información: http://a.es", "un granero."),
    ("un fienile rosso, fonte: http://a.it", "un fienile rosso"),
    ("een rode schuur via http://a.nl", "een rode schuur"),
    ("en rød låve fra http://a.no", "en rød låve"),
    ("красный сарай, источник: http://a.ru", "красный сарай"),
    ("czerwona stodoła, źródło: http://a.pl", "czerwona stodoła"),
    ("Красный сарай. Подробнее на http://a.ru", "Красный сарай."),
    ("Rød låve. Kjøp nå på http://a.no", "Rød låve."),
    ("حظيرة حمراء المصدر: http://a.com", "حظيرة حمراء"),
    ("红色的谷仓 来源：http://a.cn", "红色的谷仓"),
    ("红色的谷仓 见 http://a.cn", "红色的谷仓"),
    ("빨간 헛간 출처: http://a.kr", "빨간 헛간"),
]
CHARACTERS = [
    ("cafÃ© â€“ naÃ¯ve", "café – naïve", "mojibake is undone"),
    ("Ã\x85ngstrÃ¶m", "Ångström", "also where a control looks like the end of a line"),
    ("Wait\x85 it\x92s \x93fine\x94", "Wait… it’s “fine”", "controls stand for Windows' characters"),
    ("a\x81b\x8d", "ab", "but not all"),
    ("M\ufffdscara, don\ufffdt, 10\ufffd20, big \ufffd ben", "Mscara, don't, 10 20, big ben", "what is lost is lost"),
    ("na\ufffdve, John\ufffds, we\ufffdve, I\ufffdm", "nave, John's, we've, I'm", "apostrophes only where they can be"),
    ("\u061cabc\u200e", "abc", "a mark of direction is no letter"),
    ("é\ufe0f 1\ufe0f ©\ufe0f http://a.com/é\ufe0f", "é 1 ©\ufe0f", "variation selectors behind letters"),
    ("a\ufe0f\ufe0f 葛\ufe0f\ufe0f \U000e0061\U000e0062", "a 葛\ufe0f", "rows of them"),
    ("\U0001f3f4\U000e0067\U000e0062\U000e007f", "\U0001f3f4\U000e0067\U000e0062\U000e007f", "a flag"),
    ("a\u200bb\u00ad \x00c\r\n d\t e\ufeff", "ab c d e", "what cannot be seen goes"),
    ("\u200eCome\u200f To \u202aGrief\u202c \u2066x\u2069", "Come To Grief x", "marks of direction"),
    ("אב\u200f ab", "אב\u200f ab", "but they stay where they matter"),
    (
        "x\u200dy \U0001f9d1\u200d\U0001f680 ❤\ufe0f\u200d\U0001f525",
        "xy \U0001f9d1\u200d\U0001f680 ❤\ufe0f\u200d\U0001f525",
        "emoji",
    ),
    ("نمی\u200cخواهم क\u094d\u200dष", "نمی\u200cخواهم क\u094d\u200dष", "joiners of other scripts stay"),
    ("ภาษา\u200bไทย", "ภาษา\u200bไทย", "so does what parts words in Thai"),
    (
        "A\ufe0f 1\ufe0f\u20e3 葛\U000e0100",
        "A 1\ufe0f\u20e3 葛\U000e0100",
        "variation selectors stay behind what varies",
    ),
    ("\ud83d\ude00 \ud83d", "😀", "surrogates are joined or lost"),
]
ESCAPES = [
    ("rock &amp; roll &amp;eacute;t&eacute;", "rock & roll été", "entities are read, also when escaped twice"),
    ("rock &amp roll, it&#39s &quotfine&quot", 'rock & roll, it\'s "fine"', "also without their semicolon"),
    ("caf&eacute Qu&eacutebec &nbsp 2020 &copy Getty &reg", "café Québec 2020 © Getty ®", "also without it"),
    ("3 &times 4, 5&deg, &pound5 &#8217 &hellip;", "3 × 4, 5°, £5 ’ …", "next to numbers"),
    ("AT&T R&B this &that cut &not &copypaste D&D &lten", "AT&T R&B this &that cut &not &copypaste D&D &lten", "words"),
    ("it&rsquos &ldquoHello&rdquo a &ndash b&hellip", "it’s “Hello” a – b…", "of quotes and dashes"),
    ("it&#x27s &#x2019s &#x22red", "it's ’s \"red", "of hexadecimal numbers"),
    ("&Atilde;&copy;", "é", "mojibake in entities"),
    ("A%20red%20barn", "A red barn", "percent escapes"),
    ("caf%C3%A9 A%2520red%2520barn.jpg", "café A red barn", "of UTF-8, also twice"),
    ("100% cotton 50%off c++ at 50%20", "100% cotton 50%off c++ at 50%20", "but not every percent sign is one"),
    ("100%de 50%ab x%ff %zz 5%", "100%de 50%ab x%ff %zz 5%", "nor if it gives no text"),
    ("http%3A%2F%2Fa.com%2Fb cat", "cat", "a URL behind escapes"),
]
QUOTES = [
    ('""hi""', '"hi"', "doubled"),
    ('"a ""red"" barn"', 'a "red" barn', "a field of a CSV file"),
    ('"""I am"" T-Shirt"', '"I am" T-Shirt', "that begins with a quote"),
    ('"163"" Sofa"', '163" Sofa', "inches"),
    ('"Armstrong 3/4"" x 3 1/2"" NAY" http://a.com/b', 'Armstrong 3/4" x 3 1/2" NAY', "with a URL behind it"),
    ('"The 7"" single', 'The 7" single', "cut off"),
    ('"a red barn" and "b"', '"a red barn" and "b"', "quotes as such stay"),
    ("``old mill'' and `` it's new ''", '"old mill" and "it\'s new"', "the Penn Treebank's"),
    ("-LRB- a barn -rrb-", "( a barn )", "and its brackets"),
    ("I`m here", "I'm here", "a backtick for an apostrophe"),
]
NAMES = [
    ("s2_1.jpg", "", "a file's name"),
    ("images/red-barn.JPG", "", "with a path"),
    ("a.jpg | b.png", "", "several"),
    ("BirdsParty.com", "", "a domain"),
    ("joe@cats.com", "", "an address"),
    ("mailto:joe@cats.co.uk www.cats.com", "", "several kinds"),
    ("File:Red barn.jpg", "Red barn", "a file of a wiki"),
    ("Datei:Rote_Scheune.JPG", "Rote Scheune", "in German, with its blanks"),
    ("File:DSC_0123.jpg", "", "but not a camera's"),
    ("IMG 1234.jpg", "", "nor here"),
    ("Red barn.jpg", "Red barn", "a title"),
    ("Week 1 - Thumbnail.jpg", "Week 1 - Thumbnail", "with a separator"),
    ("Turkeys Shirt | shirt.jpg", "Turkeys Shirt | shirt.jpg", "a name among words stays"),
    ("File:Red barn.svg.png", "Red barn", "two extensions"),
    ("File:cats.com.jpg", "", "a name that is a name"),
    ("red barn.jpg.jpg", "red barn", "also here"),
    ("x page&nbsp;1.jpg  ", "x page 1", "blanks of several kinds"),
    ("lady.jpg.", "", "with a full stop"),
    ("a </lora:foo:0.8'x />", "a lora:foo:0.8'x", "what is no element"),
    ("Made by Node.js, v2.0.", "Made by Node.js, v2.0.", "these are none"),
    ("St.Petersburg", "St.Petersburg", "nor is this"),
]
ROWS = [*KEPT, *BRACKETS, *MARKUP, *URLS, *((*row, "") for row in DANGLING), *CHARACTERS, *ESCAPES, *QUOTES, *NAMES]


@pytest.mark.parametrize(("before", "after", "why"), ROWS)
def test_row(before: object, after: str, why: str) -> None:
    assert clean_caption_light(before) == after, why
    assert clean_caption_light(after) == after, why


def test_a_number_too_long_for_a_string_is_empty() -> None:
    assert clean_caption_light(10**5000) == ""


def test_what_is_escaped_too_often_needs_another_run() -> None:
    assert clean_caption_light("&amp;amp;amp;lt;") == "&amp;lt;"


def test_rules_that_changed_the_caption_are_told() -> None:
    told: list[tuple[str, str]] = []
    clean_caption_light("<b>A%20red</b>  barn", lambda rule, left: told.append((rule, left)))
    assert told == [
        ("markup", "A%20red  barn"),
        ("percent escapes", "A red  barn"),
        ("white space", "A red barn"),
    ]


@pytest.mark.parametrize(
    ("unit", "cleaned"),
    [
        ("a cat on a mat. ", "a cat on a mat. "),
        ("猫", "猫"),
        ("<b>cat</b>\n", "cat "),
        ("&amp;", "&"),
        ("\ud800", ""),
        ("http://a ", ""),
        ("<cat> ", "cat "),
        ("a http://b.c/d ", "a "),
    ],
)
def test_a_megabyte(unit: str, cleaned: str) -> None:
    number = 1_000_000 // len(unit)
    assert clean_caption_light(unit * number) == (cleaned * number).strip()
