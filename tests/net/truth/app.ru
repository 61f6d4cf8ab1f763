# frozen_string_literal: true

# A blocking Rack program for the truth harness (kit/truth.py), for Puma. TRUTH_KEEP=1: one kept connection a thread.

require 'net/http'
require 'uri'

UPSTREAM = URI(ENV.fetch('TRUTH_UPSTREAM'))
KEEP = ENV['TRUTH_KEEP'] == '1'

def ask(path)
  return Net::HTTP.start(UPSTREAM.host, UPSTREAM.port) { |http| http.get(path, 'Connection' => 'close') } unless KEEP

  http = Thread.current[:upstream] ||= Net::HTTP.start(UPSTREAM.host, UPSTREAM.port)
  http.get(path)
end

run(lambda do |env|
  _, _, hop, plan, ms = env['PATH_INFO'].split('/')
  count, rest = plan.split('.', 2)
  1.upto(count.to_i) { |k| ask("/t/#{hop}.#{k}/#{rest || 0}/#{ms}") }
  sleep(ms.to_i / 1000.0) if count == '0'
  [200, { 'Content-Type' => 'text/plain', 'Content-Length' => '5' }, ["puma\n"]]
end)
