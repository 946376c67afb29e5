"""The rule of ``edge.limits.window`` as a script that a Redis server runs, one call in one step.

A bucket is one hash: ``head`` and ``tail``, the numbers of its oldest and newest entry; ``used``, the sum; ``newest``,
when the newest leaves; and the entries by number, "LEAVES_AT_US:WEIGHT". What a call does grows with what has left
since the one before, not with what is in the log. The key goes when the last entry has left.
"""

from __future__ import annotations

import hashlib

from edge.limits.window import GRAIN_US, WINDOW_US

SCRIPT = f"""
-- KEYS: bucket. ARGV: take|ask|add|give, limit, weight, grain, now in microseconds or '', and for give the mark.
local key, mode = KEYS[1], ARGV[1]
local limit, weight, grain, now = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local window, changed = {WINDOW_US}, false
if not now then
    local time = redis.call('TIME')
    now = time[1] * 1000000 + time[2]
end
local state = redis.pcall('HMGET', key, 'head', 'tail', 'used', 'newest')
if state.err then -- something else lies there
    redis.call('DEL', key)
    state = {{}}
end
local head, tail = tonumber(state[1]) or 1, tonumber(state[2]) or 0
local used, newest = tonumber(state[3]) or 0, tonumber(state[4]) or 0

local function entry(number)
    local at, taken = string.match(redis.call('HGET', key, number) or '', '^(%d+):(%d+)$')
    return tonumber(at) or 0, tonumber(taken) or 0
end
local function write(number, at, taken)
    redis.call('HSET', key, number, string.format('%.0f:%.0f', at, taken))
    changed = true
end

if head <= tail and newest > now + window + {GRAIN_US} then -- the clock went back: all counts as taken now
    redis.call('DEL', key)
    head, tail, newest = tail + 1, tail + 1, now + window
    write(tail, newest, used)
end
while head <= tail do
    local at, taken = entry(head)
    if at > now then break end
    redis.call('HDEL', key, head)
    head, used, changed = head + 1, used - taken, true
end
if head > tail then used, newest = 0, 0 end

if mode == 'give' then
    local number = tonumber(ARGV[6])
    local at, taken = entry(number)
    if at > 0 and at == tonumber(ARGV[7]) then
        local less = math.min(weight, taken)
        write(number, at, taken - less)
        used = used - less
        while head <= tail do -- else whoever takes and gives back all the time would fill the log
            newest, taken = entry(tail)
            if taken > 0 then break end
            redis.call('HDEL', key, tail)
            tail = tail - 1
        end
    end
end
local passed = used + weight <= limit
local appended = mode == 'add' or (mode == 'take' and passed)
if appended then
    local at, taken = now + (-now) % grain + window, weight
    if head <= tail and newest >= at then
        local before
        at, before = entry(tail)
        taken = before + weight
    else
        tail = tail + 1
    end
    write(tail, at, taken)
    used, newest = used + weight, at
end
if changed then
    if head > tail then
        redis.call('DEL', key)
    else
        redis.call('HSET', key, 'head', head, 'tail', tail, 'used', used, 'newest', string.format('%.0f', newest))
        redis.call('PEXPIRE', key, math.ceil((newest - now) / 1000) + 1)
    end
end

local reset, retry = 0, 0
if appended then
    reset = newest - now
else
    for number = tail, head, -1 do
        local at, taken = entry(number)
        if taken > 0 then reset = at - now break end
    end
end
if not passed then
    retry = -1
    if weight <= limit then
        local left = used
        for number = head, tail do
            local at, taken = entry(number)
            left = left - taken
            if left + weight <= limit then retry = at - now break end
        end
    end
end
return {{passed and 1 or 0, math.max(0, limit - used), reset, retry, tail, newest}}
"""
"""Answers passed (1 or 0), remaining, reset_us, retry_after_us (-1: never), and the mark of what was taken."""

SCRIPT_SHA1 = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()
"""The name by which the server knows it."""
