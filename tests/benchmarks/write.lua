-- For wrk: each request puts a setting of its own. Arguments: token, prefix of the keys, pause in ms between two
-- requests of a connection (0: none). Prints one line of JSON at the end.
local threads = {}
function setup(thread)
  thread:set("number", #threads + 1)
  table.insert(threads, thread)
end

function init(args)
  pause = tonumber(args[3])
  headers = { ["Authorization"] = "Bearer " .. args[1], ["Content-Type"] = "application/json" }
  prefix = "/api/v1/settings/user." .. args[2] .. "." .. number .. "."
  count = 0
  failed = 0
  first = nil
end

function request()
  count = count + 1
  -- 2,000 keys: many documents, and the state does not grow without end.
  return wrk.format("PUT", prefix .. (count % 2000), headers, '{"value": {"n": ' .. count .. ', "text": "' .. string.rep("x", 200) .. '"}}')
end

function delay()
  return pause
end

function response(status, head, body)
  if status ~= 200 and status ~= 201 then
    failed = failed + 1
    first = first or (status .. " " .. body)
  end
end

function done(summary, latency, requests)
  local refused, why = 0, nil
  for _, thread in ipairs(threads) do
    refused = refused + thread:get("failed")
    why = why or thread:get("first")
  end
  io.write(string.format(
    '\n{"requests": %d, "seconds": %.3f, "failed": %d, "connect": %d, "read": %d, "write": %d, "timeout": %d, '
      .. '"p50_ms": %.3f, "p99_ms": %.3f, "max_ms": %.3f, "why": "%s"}\n',
    summary.requests, summary.duration / 1e6, refused, summary.errors.connect, summary.errors.read,
    summary.errors.write, summary.errors.timeout, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    latency.max / 1e3, (why or ""):gsub('["\\\n]', "'")))
end
