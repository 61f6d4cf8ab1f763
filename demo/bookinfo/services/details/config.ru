# frozen_string_literal: true

# Bookinfo's facts of a book: a plain Rack application under Puma, which answers by itself.

require 'json'

BOOK = { author: 'William Shakespeare', year: 1595, type: 'paperback', pages: 200, language: 'English' }.freeze

run(lambda do |env|
  _, first, _rid, noun, id = env['PATH_INFO'].split('/')
  status, body = if first == 'healthz' then [200, { ready: true }]
                 elsif noun == 'details' then [200, BOOK.merge(id: Integer(id, 10))]
                 else [404, { error: 'no such details' }]
                 end
  text = JSON.generate(body)
  [status, { 'Content-Type' => 'application/json', 'Content-Length' => text.bytesize.to_s }, [text]]
end)
