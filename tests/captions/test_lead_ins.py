"""What goes in front of a URL, and that nouns do not."""

import pytest

from microdiff.captions import clean_caption_light

NOUNS = [
    *["A white van", "Camper van", "Delivery Van", "Big Sur", "Comic Con", "Chili con", "Moong Dal", "Golf par"],
    *["Students at MIT", "students at mit", "Team AUS", "Indianapolis, IN", "Portland, OR", "Generation Y"],
    *["Carry On", "a plug-in", "a well-to-do", "Vitamin E", "Vatican, Holy See", "Monsieur De", "Vitamine A"],
    *["Rolex Watch Collection", "A Royal Visit", "The Pope's visit", "Golden Gate Bridge, View", "Shirt, Check"],
    *["Bed, Full Size", "Lego Batman. Complete Set", "Coffee: Shop", "Movie poster: Get Out", "Get Out", "Follow Me"],
    *["Rolex Watch Online", "Water Source", "Just Like Us", "Sherlock Holmes, The Complete Story", "A facebook like"],
    *["Comic Book Online", "Jeans Shop", "A kitchen with a view", "Cats in pictures", "Family photo", "Home page"],
    *["意见", "现在", "存在", "听见", "水来源"],
]


@pytest.mark.parametrize("words", NOUNS)
@pytest.mark.parametrize("url", ["http://a.com/van.jpg", "(www.a.com)", "- https://a.com"])
def test_nouns_stay_in_front_of_a_url(words: str, url: str) -> None:
    assert clean_caption_light(f"{words} {url}") == words
    assert clean_caption_light(f"{words} {url} on the beach").replace(" - ", " ") == f"{words} on the beach"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("The day we met (www.a.com) on the beach", "The day we met on the beach"),
        ("Power Source: http://a.com", "Power Source"),
        ("Carry on - http://a.com", "Carry on"),
        ("A camper van from http://a.com", "A camper van"),
        ("een camper van http://a.nl", "een camper"),
        ("A barn, see http://a.com", "A barn"),
        ("A barn, like https://a.com/b.png, in oil", "A barn, in oil"),
        ("Star Trek, The Original Story at http://a.com", "Star Trek, The Original Story"),
        ("A pie. Read the full recipe on our blog: http://a.com", "A pie."),
        ("A pie. For the full recipe, visit http://a.com", "A pie."),
        ("Big Little Lies - More http://a.com", "Big Little Lies - More"),
        ("A barn. Photo by http://a.com", "A barn."),
        ("A barn. From http://a.com", "A barn."),
        ("A barn | Via http://a.com", "A barn"),
        ("A barn. Follow us on http://a.com", "A barn."),
        ("A barn - Shop now: http://a.com", "A barn"),
        ("Red barn. Visit us at http://a.com.", "Red barn."),
        ("A barn for sale. Click here: http://a.com", "A barn for sale."),
        ("A barn Available at http://a.com", "A barn Available"),
        ("ein Stall mit Kühen auf http://a.de", "ein Stall mit Kühen"),
        ("une grange, lire la suite sur http://a.fr", "une grange"),
        ("图片来自http://a.cn", "图片"),
        ("红色的谷仓，来源：http://a.cn", "红色的谷仓"),
    ],
)
def test_what_leads_to_a_url_goes(before: str, after: str) -> None:
    assert clean_caption_light(before) == after
