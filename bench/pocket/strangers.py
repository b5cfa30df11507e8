"""English words near the names of things, none of them a name itself: what a recogniser may write instead."""

from typing import Final

_WORDS: Final = """
head bad had bet bit back bag bar bath beard beer belt best bird bold bolt bond book born both
bought bowl bowls boy brain brake branch bride bright brown call calf cap card care case cast caught
chain chance chap cheap cheek chess child chin choice claim class clean clear cloud club coal cold
comb cook cool cord core corner cost couple court cream crowd dad dark date day deal debt desk dock
down dream dress drug dust dumb end ends face fair fall fan far fear feet fight fill fire five flag
flash float floor flow flour folks fog foot fork frame friend front game girl glass globe ghost gold
gun guard hair half ham hard heat hell hill hold home hole hope hour hut ink jar kick kid kind kit
knee lake land lane large lap lead leave lid life line lip list load loan lord low luck lunch man
map mask match meat men milk million mind mode mood moss mud nail name neck neat net night note
nurse oak pain pair pants park part past path pay peak pearl peer pet pile pin pine pit place play
pole pool pot prayer pull race rag rain rate read red rice rich road rope rough round row sack sail
sale salt sand seat seed sell send shade shape share sharp shed sheet shelf shirt shop short shot
shoulder sick side sign sink site skin sky sleep slip smoke snow soap son song sound spring stairs
stand steel step stone store street suit sum sunk swan tail tale tank tap taxi tea tent thing thigh
three throat tide tight time tin toe tone tool top town toy track trail trap tray trip trick trunk
tube tune wall watch wave way wear week weight whip white wine wing wire wolf wood word worm yard
year
"""
STRANGERS: Final = tuple(_WORDS.split())
