"""CacheSafety Bench: how often a cache replays an answer that it may, and how often one that it must not.

items       an item: a request that was answered, another one, and whether that answer may be replayed for it
reading     items from JSONL, with an error for each line that is not one
generate/   items made by rules: mutators for every category of trap, and rephrasings that keep the meaning
published   items from the data of the package `fow-cache`
judging     drives a cache through items and says what became of each
tiers       the caches that are judged: each tier of the cache service, in this process
against/    the caches that are judged: whatever answers at an OpenAI-compatible endpoint
metrics     rates, their exact intervals, and what would be saved
log_reader  an organisation's own recorded requests, as it exported them
from_log    lives through them with each tier, and says what it would have saved; log_command fetches and tells
report/     the same as one HTML file with charts
command     `tallygate cache-safety`
"""
