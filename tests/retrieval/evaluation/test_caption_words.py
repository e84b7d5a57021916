"""The words of captions: against what Stanford's PTBTokenizer 3.4.1 and the official code make of the same texts."""

from __future__ import annotations

import shutil
import time

import pytest

from image_text_embedding.retrieval.evaluation.caption_words import caption_words

# Written by hand; the words are those of `java ... PTBTokenizer -preserveLines -lowerCase`, without punctuation.
OFFICIAL = [
    ("don't won't can't cannot shouldn't ain't", "do n't wo n't ca n't can not should n't ai n't"),
    ("y'all y'alls ma'am o'clock", "y' all y' alls ma'am o'clock"),
    ("gonna wanna gotta lemme gimme dunno", "gon na wan na got ta lem me gim me dunno"),
    ("'cause 'em 'bout rock'n'roll", "'cause 'em bout rock 'n' roll"),
    ("a photo of a T-shirt (size XL)", "a photo of a t-shirt -lrb- size xl -rrb-"),
    ("A man riding a wave on top of a surfboard.", "a man riding a wave on top of a surfboard"),
    ("Two dogs, one black and one white, play in the snow", "two dogs one black and one white play in the snow"),
    ("A woman's hand holding a slice of pizza.", "a woman 's hand holding a slice of pizza"),
    (
        "The kids' toys aren't on the shelf; they're on the floor!",
        "the kids toys are n't on the shelf they 're on the floor",
    ),
    ('A "Stop" sign at the corner of 5th Ave. and Main St.', "a stop sign at the corner of 5th ave. and main st."),
    (
        "A black-and-white photo of a T-shirt (size XL) on a hanger",
        "a black-and-white photo of a t-shirt -lrb- size xl -rrb- on a hanger",
    ),
    ("People waiting at the U.S. embassy at 10:30am.", "people waiting at the u.s. embassy at 10:30 am"),
    ("A clock that reads 3:45 p.m. near Mt. Rainier", "a clock that reads 3:45 p.m. near mt. rainier"),
    ("A plate with 1/2 of a sandwich & some chips", "a plate with 1/2 of a sandwich & some chips"),
    ("A cat that cannot reach the toy...", "a cat that can not reach the toy"),
    ("A man in his 20's and a girl from the '90s", "a man in his 20 's and a girl from the '90s"),
    ("It's Mr. O'Brien's dog, Rex, vs. the neighbor's cat", "it 's mr. o'brien 's dog rex vs. the neighbor 's cat"),
    ("a bus with the number 1,000 on it", "a bus with the number 1,000 on it"),
    ("A teddy bear,a ball and a book:all on the bed", "a teddy bear a ball and a book all on the bed"),
    ("Do you wanna go? Don't!", "do you wan na go do n't"),
    ("A zebra is standing.It is looking left", "a zebra is standing.it is looking left"),
    ("A 12-year-old boy at O'Hare's gate #5", "a 12-year-old boy at o'hare 's gate # 5"),
    ("the cake costs $5.00, or £4", "the cake costs $ 5.00 or # 4"),
    ("A sign for AT&T in the window of a café", "a sign for at&t in the window of a café"),
    ("\"hello\" says the 'parrot' on the pirate's shoulder", "hello says the parrot on the pirate 's shoulder"),
    ("a man who's gonna jump", "a man who 's gon na jump"),
    ("half-eaten doughnut w/ sprinkles", "half-eaten doughnut w / sprinkles"),
    ("A bathroom with a toilet, sink, and shower/tub combo .", "a bathroom with a toilet sink and shower/tub combo"),
    ("There are no. 7 and No. 8 on the jerseys, e.g. blue", "there are no. 7 and no. 8 on the jerseys e.g. blue"),
    ("rock'n'roll fans by a dept. store", "rock 'n' roll fans by a dept. store"),
    ("A photo by J. Smith @flickr #dogs", "a photo by j. smith @flickr #dogs"),
    ("A man with [something] {odd} on his head <3", "a man with -lsb- something -rsb- -lcb- odd -rcb- on his head < 3"),
    ("Vegetables—carrots, peas…and onions – on a plate", "vegetables carrots peas and onions on a plate"),
    ("y'all get 50% off", "y' all get 50 % off"),
    ("A st. bernard vs. etc. in the park", "a st. bernard vs. etc. in the park"),
    ("the dog is 5 ft. tall. It weighs 10 lbs. ok", "the dog is 5 ft. tall it weighs 10 lbs ok"),
    ("Dr. Who and Mrs. Jones, Jr. at No. 5 Main St.", "dr. who and mrs. jones jr. at no. 5 main st."),
    ("she's he's they're we've I'll you'd dogs'", "she 's he 's they 're we 've i 'll you 'd dogs"),
    ("the '90s and 80's style 1950s car", "the '90s and 80 's style 1950s car"),
    ('a man holding a "stop" sign', "a man holding a stop sign"),
    ("'hello' there 'a dog' says", "hello there a dog says"),
    ("a dog(brown) and cat[white]", "a dog -lrb- brown -rrb- and cat -lsb- white -rsb-"),
    ("a dog,cat;mouse:bird", "a dog cat mouse bird"),
    ("it's a dog.It is brown", "it 's a dog.it is brown"),
    ("hot-dog hot - dog hot -- dog hot--dog hot---dog", "hot-dog hot dog hot dog hot dog hot dog"),
    ("10:30 10:30am 3pm 3 p.m. 2/3 1 1/2 3.5 .5 1,000 1,00", "10:30 10:30 am 3pm 3 p.m. 2/3 1 1/2 3.5 .5 1,000 1,00"),
    ("&amp; & AT&T R&B b&w black&white black & white", "& & at&t r&b b & w black & white black & white"),
    ("one/two w/ w/o and/or left/right", "one/two w / w/o and/or left/right"),
    (
        "don't won't can't cannot shouldn't ain't y'all y'alls ma'am o'clock",
        "do n't wo n't ca n't can not should n't ai n't y' all y' alls ma'am o'clock",
    ),
    (
        "gonna wanna gotta lemme gimme dunno 'cause 'em 'bout rock'n'roll",
        "gon na wan na got ta lem me gim me dunno 'cause 'em bout rock 'n' roll",
    ),
    ("café naïve résumé “quotes” ‘single’ ’s dog’s — – …", "café naïve résumé quotes single 's dog 's"),
    ("a... b.. c. d! e? f!! g?? h?! i...", "a. b. c. d e f !! g ?? h ?! i."),
    (
        "a*b * c ** _d_ ~e~ ^f `g` |h| =i= +j+ <k> {l} \\m",
        "a * b * c ** _ d _ ~ e ~ ^ f g | h | = i = + j + <k> -lcb- l -rcb- \\ m",
    ),
    ("two  spaces\ttab", "two spaces tab"),
    ("A man's best friend; the Smiths' car", "a man 's best friend the smiths car"),
    ("TV's t.v. T.V. tv. U.S.A. usa. e.g. i.e. ie. p.s.", "tv 's t.v. t.v. tv u.s.a. usa e.g. i.e. ie p.s."),
    (
        "Mt. Rainier Ave. blvd. rd. sgt. lt. gen. rev. hon. sen.",
        "mt. rainier ave. blvd. rd. sgt. lt. gen. rev. hon. sen.",
    ),
    ("wait...what yes...no", "wait what yes no"),
    ("a man in black-and-white t-shirt, jeans, and a hat.", "a man in black-and-white t-shirt jeans and a hat"),
    ("dog's' cats's", "dog 's cats 's"),
    ("the kids' toys and women's", "the kids toys and women 's"),
    ("1st 2nd 3rd 4th 21st", "1st 2nd 3rd 4th 21st"),
    ("non-profit co-operate e-mail x-ray", "non-profit co-operate e-mail x-ray"),
    ("a 12-year-old boy", "a 12-year-old boy"),
    ("a.b a.b.c", "a.b a.b.c"),
    (":) :-) ;) :( :D <3", ":-rrb- :--rrb- ;-rrb- :-lrb- :d < 3"),
    ("100,000.50 1.2.3 -5 +5 -5.5", "100,000.50 1.2.3 -5 +5 -5.5"),
    ("hello's'", "hello 's"),
    ("a man (left) and a woman (right).", "a man -lrb- left -rrb- and a woman -lrb- right -rrb-"),
    ("it 's a dog 's bone do n't", "it 's a dog 's bone do n't"),
    ("I'm i'm im", "i 'm i 'm im"),
    ("dog,", "dog"),
    ('"dog"', "dog"),
    ("'dog'", "dog"),
    ("''dog''", "dog"),
    ("``dog``", "dog"),
    ("dog's.", "dog 's"),
    ('a "dog\'s" life', "a dog 's life"),
    ('"it\'s"', "it 's"),
    ("C++ C# .NET", "c++ c# net"),
    ("No smoking. no. yes", "no smoking no yes"),
    ("vs versus vs.", "vs versus vs."),
]


@pytest.mark.parametrize(("caption", "words"), OFFICIAL)
def test_words_equal_those_of_the_original(caption: str, words: str) -> None:
    assert " ".join(caption_words(caption)) == words


@pytest.mark.skipif(shutil.which("java") is None, reason="the original is a Java program")
def test_the_original_says_the_same_today() -> None:
    tokenizer = pytest.importorskip("pycocoevalcap.tokenizer.ptbtokenizer").PTBTokenizer()
    found = tokenizer.tokenize({i: [{"caption": caption}] for i, (caption, _) in enumerate(OFFICIAL)})
    assert [" ".join(found[i][0].split()) for i in range(len(OFFICIAL))] == [words for _, words in OFFICIAL]


@pytest.mark.parametrize("text", ["", " ", "\n\t", "! ? . , ; :", "\"''`“”‘’", "- -- ... …"])
def test_texts_without_words(text: str) -> None:
    assert caption_words(text) == []


PIECES = [
    "a",
    "a.",
    "A&",
    "+.",
    "-",
    "'",
    "<a",
    "http://",
    "a-1/",
    "1,",
    "a!",
    ":",
    "\N{ZERO WIDTH SPACE}",
    "字",
    "@a.",
    "?!",
]


@pytest.mark.parametrize("piece", PIECES)
def test_long_texts_do_not_take_long(piece: str) -> None:
    """Ten times the text takes about ten times as long; a rule that looks back again and again takes a hundred times."""
    short, long = (piece * (size // len(piece)) for size in (2_000, 20_000))
    caption_words(short)
    times = []
    for text in (short, long):
        start = time.process_time()
        caption_words(text)
        times.append(time.process_time() - start)
    assert times[1] < 40 * times[0] + 0.2
