r"""Two ways to clean a caption, and what is done to prompts before either.

`clean_caption` does byte for byte what the published recipe does, for those who compare with it: lower case, no CJK
ideographs, no brackets, sizes, codes or long numbers. `clean_caption_light` repairs what is broken and removes markup
and URLs, for text encoders that can read the rest. `strip_parameters` takes the parameters of image generators out.

    >>> for caption in [
    ...     "A photo of <b>Big Ben</b> (London), 4K &amp; HDR!",
    ...     "Epson L818 printer, 5x7 photos - https://shop.example.com/l818?id=1",
    ...     "Jungle<br>Hawaiian cafÃ©",
    ...     "一只猫 Two cats",
    ... ]:
    ...     print(repr(clean_caption(caption)), repr(clean_caption_light(caption)), sep="\n")
    'a photo of big ben london , 4k hdr!'
    'A photo of Big Ben (London), 4K & HDR!'
    'on printer, photos - ?id=1'
    'Epson L818 printer, 5x7 photos'
    'junglehawaiian cafã'
    'Jungle Hawaiian café'
    'two cats'
    '一只猫 Two cats'
"""

from microdiff.captions.deepfloyd import clean_caption
from microdiff.captions.light import clean_caption_light
from microdiff.captions.prompts import strip_parameters

__all__ = ["clean_caption", "clean_caption_light", "strip_parameters"]
