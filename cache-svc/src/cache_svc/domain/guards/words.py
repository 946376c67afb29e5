"""The words that the guards know, in lower case. One that is missing here costs safety in the semantic tier alone: to
the canonical tier all words but the fillers are content.
"""

from __future__ import annotations


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


NEGATIONS = _set(
    "not no never none nobody nothing nowhere neither nor without cannot hardly barely scarcely lack lacks "
    "lacking except excluding besides instead unless avoid avoids avoiding stop stops stopped stopping "
    "refuse refuses refused fail fails failed failing"
)
"""Words that turn a sentence round. ``n't`` counts as one too."""

NEGATIVE_PREFIXES = (
    "un",
    "non",
    "non-",
    "in",
    "im",
    "il",
    "ir",
    "dis",
    "de",
    "mis",
    "anti",
    "anti-",
    "a",
    "re",
    "under",
    "over",
    "out",
    "up",
    "down",
    "pre",
    "post",
    "pre-",
    "post-",
    "re-",
    "de-",
    "un-",
    "self-",
    "ex-",
    "co-",
)
"""What makes another word of a word: "safe", "unsafe"."""

POLES = _set("""
on off in out up down open opens opened closed close closes shut all any every each some most both either only also
always sometimes usually often rarely yes true false allow allows allowed forbid forbidden ban banned bans permit
permitted prohibit prohibited legal illegal lawful safe unsafe dangerous good bad better worse best worst right wrong
correct incorrect true false high higher highest low lower lowest large larger largest big bigger biggest small
smaller smallest long longer longest short shorter shortest fast faster fastest slow slower slowest hot hotter hottest
cold colder coldest warm cool new newer newest old older oldest young younger youngest early earlier earliest late
later latest first last next previous prior more less fewer most least maximum minimum max min many few much little
cheap cheaper cheapest expensive strong stronger strongest weak weaker weakest hard harder hardest easy easier easiest
heavy light bright dark wet dry full empty rich poor positive negative increase increases increased increasing
decrease decreases decreased decreasing rise rises rising fall falls falling grow shrink raise reduce add adds added
remove removes removed delete insert include includes included exclude excludes enable enables enabled disable
disables disabled activate deactivate start starts started begin begins end ends ended finish stop continue accept
accepts decline reject approve deny buy buys sell sells lend borrow import export upload download push pull send sends
receive receives give take win wins won lose loses lost pass fail gain loss profit ascending descending asc desc
forward backward forwards backwards inside outside internal external inner outer incoming outgoing inbound outbound
import export input output encode decode encrypt decrypt compress decompress lock unlock mute unmute follow unfollow
subscribe unsubscribe install uninstall connect disconnect attach detach mount unmount load unload show hide expand
collapse upgrade downgrade login logout sign benefit benefits advantage advantages drawback drawbacks disadvantage
disadvantages pro pros con cons strength strengths weakness weaknesses cause causes caused effect effects before
problem solution male female man men woman women boy boys girl girls husband wife mother father parent parents child
children kid kids baby babies toddler adult adults teenager senior seniors son daughter brother sister student
students teacher staff employee employees employer employed self-employed tenant tenants landlord landlords buyer
seller buyers sellers customer customers member members guest guests owner owners sender recipient lender borrower
public private personal business domestic foreign national international local global home abroad online offline
indoor outdoor paper digital manual automatic temporary permanent full-time part-time single joint return one-way
single-trip daily weekly monthly yearly annual annually quarterly hourly weekday weekdays weekend weekends free paid
gross net total average mean median mode sum difference product ratio asynchronous synchronous async sync mutable
immutable static dynamic local remote client server read write reads writes get set put post patch left north south
east west northern southern eastern western front back top bottom upper lower horizontal vertical clockwise
counterclockwise anticlockwise odd even prime composite vegan vegetarian pregnant allergic diabetic
""")
"""Words with an opposite, or with another of their kind that is asked for as often. Their list must be the same."""

DIRECTIONS = _set(
    "from to into onto before after until till since than versus vs over under above below between "
    "towards toward through against per by via within during behind beyond beside minus plus times "
    "divided multiplied squared cubed"
)
"""Words whose two sides can't change places."""

QUESTION_WORDS = _set("who whom whose what when where why how which")

HOW = _set("many much long often far old big tall deep fast soon late early high wide heavy hot cold likely come")
"""What follows "how" and makes another question of it."""

LANGUAGES = _set("""
english french german spanish italian portuguese dutch swedish norwegian danish finnish icelandic polish czech slovak
hungarian romanian bulgarian greek turkish russian ukrainian arabic hebrew persian farsi hindi urdu bengali tamil
telugu thai vietnamese indonesian malay filipino tagalog swahili chinese mandarin cantonese japanese korean latin
catalan basque welsh irish gaelic python java javascript typescript rust go golang c c++ c# ruby php perl swift kotlin
scala haskell erlang elixir clojure lua r julia matlab sql bash powershell fortran cobol assembly dart zig nim ocaml
british american brazilian european simplified traditional
""")

FORMATS = _set("""
json yaml xml csv tsv html markdown latex pdf table tables list lists bullet bullets bulleted numbered paragraph
paragraphs sentence sentences word words line lines page pages essay poem haiku limerick song story email letter tweet
code function script regex diagram chart outline summary summarise summarize headline title plain formal informal
casual professional polite brief briefly short detailed concise simple technical verbose step steps uppercase
lowercase capitals emoji emojis rhyme rhymes columns rows comma-separated tldr eli5
""")

UNITS = _set("""
% percent pct ‰ bps basis point points $ € £ ¥ usd eur gbp jpy cny chf cad aud dollar dollars euro euros pound pounds
yen cent cents pence penny mm cm m km metre metres meter meters kilometre kilometres kilometer kilometers inch inches
in ft foot feet yd yard yards mi mile miles mg g kg gram grams kilo kilos kilogram kilograms tonne tonnes ton tons oz
ounce ounces lb lbs stone ml cl l litre litres liter liters gallon gallons pint pints cup cups tbsp tsp tablespoon
tablespoons teaspoon teaspoons ms s sec secs second seconds min mins minute minutes h hr hrs hour hours day days week
weeks fortnight month months quarter quarters year years decade decades century centuries c f k celsius fahrenheit
kelvin degree degrees ° °c °f hz khz mhz ghz b kb mb gb tb pb kib mib gib tib bit bits byte bytes kbps mbps gbps w kw
mw gw kwh wh v volt volts amp amps a j kj cal kcal calories pa kpa bar psi mph kph km/h m/s px pt em rem people
persons users user seats rooms room bed beds bedroom bedrooms bed-room times x items item copies am pm a.m p.m o'clock
oclock st nd rd th
""")

TIMES = _set("""
monday mondays tuesday tuesdays wednesday wednesdays thursday thursdays friday fridays saturday saturdays sunday
sundays mon tue tues wed thu thur thurs fri sat sun january february march april may june july august september
october november december jan feb mar apr jun jul aug sep sept oct nov dec today tonight tomorrow yesterday now
currently morning mornings afternoon afternoons evening evenings night nights noon midday midnight dawn dusk spring
summer autumn fall winter weekday weekdays weekend weekends week weeks month months year years day days hour hours
minute minutes second seconds decade century christmas easter ramadan bc ad bce ce am pm utc gmt est pst cet bst
annual annually daily weekly monthly yearly quarterly hourly century recent recently latest current ago
""")

NUMBER_WORDS = {
    word: value
    for value, words in {
        "0": "zero nil", "1": "one once single", "2": "two twice double couple pair", "3": "three thrice triple",
        "4": "four", "5": "five", "6": "six", "7": "seven", "8": "eight", "9": "nine", "10": "ten", "11": "eleven",
        "12": "twelve dozen", "13": "thirteen", "14": "fourteen", "15": "fifteen", "16": "sixteen", "17": "seventeen",
        "18": "eighteen", "19": "nineteen", "20": "twenty", "30": "thirty", "40": "forty", "50": "fifty",
        "60": "sixty", "70": "seventy", "80": "eighty", "90": "ninety", "100": "hundred hundreds",
        "1000": "thousand thousands", "1000000": "million millions", "1000000000": "billion billions",
        "1000000000000": "trillion trillions", "1/2": "half halve halves", "1/3": "third thirds",
        "1/4": "quarter quarters", "2nd": "second", "4th": "fourth", "5th": "fifth", "6th": "sixth",
        "7th": "seventh", "8th": "eighth", "9th": "ninth", "10th": "tenth",
    }.items()
    for word in words.split()
}  # fmt: skip
