-- wrk script: a freshly signed Slack message per request.
--   wrk -t1 … -s load.lua URL -- INSTALLATIONS TEMPLATE
-- INSTALLATIONS: one `ingress_id signing_secret app_id team_id` a line (100 for the gateway, 1 for Bolt, which knows one
-- secret). One thread only: the counter behind the event ids belongs to a thread.
local ffi = require "ffi"

-- The three-call SHA-256 of libcrypto instead of HMAC(): with the two key blocks hashed once per installation a signature is
-- a copy of two states and some 0.7 µs, so that the generator is not what gets measured.
ffi.cdef [[
typedef struct { uint32_t h[8], Nl, Nh, data[16], num, md_len; } SHA256_CTX;
int SHA256_Init(SHA256_CTX *c);
int SHA256_Update(SHA256_CTX *c, const void *data, size_t len);
int SHA256_Final(unsigned char *md, SHA256_CTX *c);
]]
-- Debian's wrk links libcrypto dynamically: its symbols are already here. A static wrk needs the library by name.
local linked = pcall(function() return ffi.C.SHA256_Init end)
local crypto = linked and ffi.C or ffi.load("crypto")

local STATE = ffi.sizeof("SHA256_CTX")
local scratch, digest, hex = ffi.new("SHA256_CTX"), ffi.new("unsigned char[32]"), ffi.new("char[64]")
local digits = "0123456789abcdef"

local function padded(key, byte)
  local state, block = ffi.new("SHA256_CTX"), ffi.new("unsigned char[64]")
  for i = 0, 63 do block[i] = bit.bxor(key:byte(i + 1) or 0, byte) end
  crypto.SHA256_Init(state)
  crypto.SHA256_Update(state, block, 64)
  return state
end

local function sign(install, prefix, body)
  ffi.copy(scratch, install.inner, STATE)
  crypto.SHA256_Update(scratch, prefix, #prefix)
  crypto.SHA256_Update(scratch, body, #body)
  crypto.SHA256_Final(digest, scratch)
  ffi.copy(scratch, install.outer, STATE)
  crypto.SHA256_Update(scratch, digest, 32)
  crypto.SHA256_Final(digest, scratch)
  for i = 0, 31 do
    hex[2 * i] = digits:byte(bit.rshift(digest[i], 4) + 1)
    hex[2 * i + 1] = digits:byte(bit.band(digest[i], 15) + 1)
  end
  return ffi.string(hex, 64)
end

-- Cuts the template at its per-request marks: the text parts stay, the slots are filled anew each time.
local function cut(template, fixed)
  local parts, slots = {}, { ID = {}, SEC = {}, MICRO = {} }
  template = template:gsub("@(%u+)@", fixed)
  local from = 1
  while true do
    local first, last, name = template:find("@(%u+)@", from)
    parts[#parts + 1] = template:sub(from, (first or 0) - 1)
    if not first then return parts, slots end
    parts[#parts + 1] = ""
    table.insert(slots[name], #parts)
    from = last + 1
  end
end

local function fill(parts, slots, value)
  for i = 1, #slots do parts[slots[i]] = value end
end

local installs, count = {}, 0
local start = os.time()

function init(args)
  local file = assert(io.open(args[2]))
  local template = file:read("*l")
  file:close()
  for line in io.lines(args[1]) do
    local ingress, secret, app, team = line:match("(%S+)%s+(%S+)%s+(%S+)%s+(%S+)")
    local parts, slots = cut(template, { APP = app, TEAM = team })
    installs[#installs + 1] = {
      inner = padded(secret, 0x36), outer = padded(secret, 0x5c), parts = parts, slots = slots,
      head = "POST /webhooks/slack/" .. ingress .. " HTTP/1.1\r\nHost: " .. wrk.host
        .. "\r\nContent-Type: application/json\r\nContent-Length: ",
    }
  end
end

function request()
  -- The id is a time in microseconds that counts up by one: increasing like Slack's, and no two runs share one as long as
  -- they start in different seconds and stay below a million requests a second.
  count = count + 1
  local id = start * 1e6 + count
  local install = installs[count % #installs + 1]
  local parts, slots = install.parts, install.slots
  fill(parts, slots.ID, string.format("%013X", id))
  fill(parts, slots.SEC, string.format("%d", id / 1e6))
  fill(parts, slots.MICRO, string.format("%06d", id % 1e6))
  local body, now = table.concat(parts), tostring(os.time())
  local signature = sign(install, "v0:" .. now .. ":", body)
  return install.head .. #body .. "\r\nX-Slack-Request-Timestamp: " .. now .. "\r\nX-Slack-Signature: v0=" .. signature
    .. "\r\n\r\n" .. body
end

-- No `response` function: it would make wrk hand every header to Lua. wrk itself counts statuses above 399, and the servers
-- here know no others besides 200 (bench.py probes that before each run).
function done(summary, latency)
  local e = summary.errors
  io.write(string.format('{"requests":%d,"ok":%d,"seconds":%.6f,"bad":%d,"p50":%.3f,"p99":%.3f,"max":%.3f}\n',
    summary.requests, summary.requests - e.status, summary.duration / 1e6, e.status + e.connect + e.read + e.write + e.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3))
end
