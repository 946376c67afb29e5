"""The scripts in which entries are found and kept: each is one round trip, and happens at once or not at all.

What is held of an organisation is counted beside the entries: for each group (``domain.request.group_of``) an index of
its entries, by when they expire, and for each organisation a hash of its groups with their evictions. The index has the
size of each entry, so that one that Redis evicted, or that something else overwrote, is told from one that is there.
"""

from __future__ import annotations

from cache_svc.domain.fill import Lead
from cache_svc.store.redis_commands import Script, Word

ENTRY = b"tallygate:cache:1:entry:"
EPOCH = b"tallygate:cache:1:epoch:"
HELD = b"tallygate:cache:1:held:"
"""Before the field of a group: the index of its entries. A member is the address and the size, 4 bytes."""
GROUPS = b"tallygate:cache:1:groups:"
"""Before the epoch name of an organisation: its groups."""
LED = b"tallygate:cache:1:fill:"
"""Before the name of a flight: the key that says who leads it."""
SAID, FOLLOWED = b"tallygate:cache:1:fill-said:", b"tallygate:cache:1:fill-followed:"
"""Before the word of a flight: what its leader said, and who follows."""
CHANNEL = b"tallygate:cache:1:fills"
"""Where word of changes goes."""
SAID_MS = 60_000
"""What was said is kept so long after the last of it: longer than a lease, and than a follower may lag behind."""

_BOARD = """
local function board(key, token, lease_ms)
    local leader = redis.call('GET', key)
    if not leader then
        redis.call('SET', key, token, 'PX', lease_ms)
        leader = token
    end
    return leader
end
"""
_SAY_LAST = """
local function say_last(said, followed, event, kept_ms, channel, word)
    if redis.call('DEL', followed) == 0 then return end
    redis.call('RPUSH', said, event)
    redis.call('PEXPIRE', said, kept_ms)
    redis.call('PUBLISH', channel, word)
end
"""
_COUNT = """
local function member(address, size) return address .. struct.pack('>I4', size) end

local function forget(index, address, size)
    if size > 0 then redis.call('ZREM', index, member(address, size)) end
end

-- An entry that is gone before its time made room for others. The two that expire next are looked at.
local function notice(index, groups, group, prefix)
    for _, held in ipairs(redis.call('ZRANGE', index, 0, 1)) do
        if redis.call('STRLEN', prefix .. string.sub(held, 1, -5)) ~= struct.unpack('>I4', string.sub(held, -4)) then
            redis.call('ZREM', index, held)
            redis.call('HINCRBY', groups, group, 1)
        end
    end
end

local function outlive(key, ttl_ms)
    if redis.call('PTTL', key) < ttl_ms then redis.call('PEXPIRE', key, ttl_ms) end
end
"""

FIND_OR_LEAD = Script(
    _BOARD
    + """
local found = redis.call('MGET', unpack(KEYS))
local name = ARGV[1]
for i = 2, #KEYS do
    if not found[i] then return {false, unpack(found, 1, #KEYS)} end
    name = name .. '|' .. found[i]
end
if found[1] then return {false, unpack(found, 1, #KEYS)} end
return {board(name, ARGV[2], ARGV[3]), unpack(found, 1, #KEYS)}
"""
)
"""KEYS: the entry, the epochs. ARGV: the name of the flight as far as the address, the token, the lease. What MGET
gives, after who leads the flight of a request without an entry. The name is that of domain.fill."""

BOARD = Script(_BOARD + "return board(KEYS[1], ARGV[1], ARGV[2])")
"""KEYS: the flight. ARGV: the token, the lease. Who leads, the caller where nobody did."""

BEGIN_EPOCHS = Script(
    """
for i = 1, #KEYS do redis.call('SET', KEYS[i], ARGV[i + 1], 'NX', 'EX', ARGV[1]) end
return redis.call('MGET', unpack(KEYS))
"""
)
"""KEYS: the epochs. ARGV: their time to live, and a value for each that is not there. Those in force."""

PUT = Script(
    _COUNT
    + _SAY_LAST
    + """
local entry, index, groups = KEYS[1], KEYS[2], KEYS[3]
local blob, ttl_ms, epoch_ttl_ms, address, group = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5]
local epochs, checked = tonumber(ARGV[6]), tonumber(ARGV[7])
for i = 1, checked do
    if redis.call('GET', KEYS[3 + i]) ~= ARGV[7 + i] then return {0, 0} end
end
local before = redis.call('STRLEN', entry)
redis.call('SET', entry, blob, 'PX', ttl_ms)
for i = 4, 3 + epochs do redis.call('PEXPIRE', KEYS[i], epoch_ttl_ms) end
if epochs > 0 then
    local time = redis.call('TIME')
    local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
    forget(index, address, before)
    redis.call('ZREMRANGEBYSCORE', index, '-inf', now_ms)
    redis.call('HSETNX', groups, group, 0)
    notice(index, groups, group, string.sub(entry, 1, -1 - #address))
    redis.call('ZADD', index, now_ms + ttl_ms, member(address, #blob))
    outlive(index, ttl_ms)
    outlive(groups, tonumber(epoch_ttl_ms))
end
local said = 8 + checked
if #ARGV < said or redis.call('GET', KEYS[4 + epochs]) ~= ARGV[said] then return {1, 0} end
redis.call('DEL', KEYS[4 + epochs])
say_last(KEYS[5 + epochs], KEYS[6 + epochs], unpack(ARGV, said + 1))
return {1, 1}
"""
)
"""KEYS: the entry, the index and the groups that count it, the epochs, and the keys of a flight that ends with it.
ARGV: the bytes, their time to live, that of the epochs, the address, the group, how many epochs, and the values that
they must have, none or all; then of the flight: the token and what ``_SAY_LAST`` takes. Whether it was kept, and
whether the flight was ended."""

DELETE = Script(
    _COUNT
    + """
forget(KEYS[2], ARGV[1], redis.call('STRLEN', KEYS[1]))
return redis.call('DEL', KEYS[1])
"""
)
"""KEYS: the entry, the index. ARGV: the address."""

COUNT = Script(
    """
local index, groups, prefix, group, from, most = KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if from == '0' then
    local time = redis.call('TIME')
    redis.call('ZREMRANGEBYSCORE', index, '-inf', time[1] * 1000 + math.floor(time[2] / 1000))
end
local found, bytes, gone = redis.call('ZRANGE', index, from, from + most - 1), 0, 0
for _, held in ipairs(found) do
    local size = struct.unpack('>I4', string.sub(held, -4))
    if redis.call('STRLEN', prefix .. string.sub(held, 1, -5)) == size then
        bytes = bytes + size
    else
        redis.call('ZREM', index, held)
        gone = gone + 1
    end
end
if gone > 0 then redis.call('HINCRBY', groups, group, gone) end
return {#found, #found - gone, bytes, redis.call('ZCARD', index), tonumber(redis.call('HGET', groups, group) or 0)}
"""
)
"""KEYS: the index, the groups. ARGV: the prefix of entries, the group, the rank from which on, and how many are looked
at. How many were, how many of them are there, their bytes; then the length of the index and the evictions so far."""

END = Script(
    _SAY_LAST
    + """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[2]) end
say_last(KEYS[2], KEYS[3], unpack(ARGV, 4))
return 1
"""
)
"""KEYS: the flight, what was said, who follows. ARGV: the token, for how long nobody leads and what stands there then,
and what ``_SAY_LAST`` takes. Whether it led."""


def word_of(lead: Lead) -> bytes:
    """What is said on the channel of a flight when something of it has changed."""
    return lead.name + b"|" + lead.token.encode()


def flight_keys(lead: Lead) -> tuple[bytes, bytes, bytes]:
    """Who leads it, what was said, who follows."""
    word = word_of(lead)
    return LED + lead.name, SAID + word, FOLLOWED + word


def last_words(lead: Lead, event: bytes) -> tuple[Word, ...]:
    """What ``_SAY_LAST`` takes after its keys."""
    return event, SAID_MS, CHANNEL, word_of(lead)
