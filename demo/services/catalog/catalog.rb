# frozen_string_literal: true

# The shop's catalog: a plain Rack application under Puma. It asks PostgreSQL by simple queries (sslmode=disable) and counts
# views in Redis (RESP2, the redis gem). The connections are opened at start and lent to one thread for one request, so nothing
# but the request's own calls is seen while it is served. Settings: SHOP_PG_PORT, SHOP_REDIS_PORT, SHOP_TAG; elsewhere than
# on loopback SHOP_PG_HOST, SHOP_REDIS_HOST.

require 'json'
require 'pg'
require 'redis'

class Catalog
  Stores = Struct.new(:sql, :redis)

  THREADS = 4
  TAG = ENV['SHOP_TAG'] == '1'

  def initialize
    @stores = Queue.new
    THREADS.times { @stores << open_stores }
  end

  def call(env)
    _, r, rid, noun, id = env['PATH_INFO'].split('/')
    return answer(200, ready: true) if r == 'healthz'

    id = Integer(id, 10)
    with_stores do |stores|
      case [env['REQUEST_METHOD'], noun]
      when %w[GET items] then item(stores, rid, id)
      when %w[POST reservations] then reserve(stores, rid, id, JSON.parse(env['rack.input'].read))
      else answer(404, error: 'no such thing in the catalog')
      end
    end
  end

  private

  def open_stores
    sql = PG.connect(host: ENV.fetch('SHOP_PG_HOST', '127.0.0.1'), port: ENV.fetch('SHOP_PG_PORT'), dbname: 'shop', user: 'catalog',
                     password: 'catalog', sslmode: 'disable')
    redis = Redis.new(host: ENV.fetch('SHOP_REDIS_HOST', '127.0.0.1'), port: Integer(ENV.fetch('SHOP_REDIS_PORT'), 10), reconnect_attempts: 0)
    redis.ping
    Stores.new(sql, redis)
  end

  def with_stores
    stores = @stores.pop
    yield stores
  ensure
    @stores << stores if stores
  end

  def item(stores, rid, id)
    rows = stores.sql.exec("SELECT name, stock FROM products WHERE id = #{id}#{comment(rid)}")
    return answer(404, error: "no product #{id}") if rows.ntuples.zero?

    views = stores.redis.incr(TAG ? "views:#{id}:#{rid}" : "views:#{id}")
    answer(200, id: id, name: rows[0]['name'], stock: rows[0]['stock'].to_i, views: views)
  end

  def reserve(stores, rid, id, wanted)
    quantity = Integer(wanted.fetch('quantity'))
    rows = stores.sql.exec("UPDATE products SET stock = stock - #{quantity} WHERE id = #{id} RETURNING stock#{comment(rid)}")
    return answer(404, error: "no product #{id}") if rows.ntuples.zero?

    answer(200, reserved: quantity, left: rows[0]['stock'].to_i)
  end

  def comment(rid)
    TAG ? " /* #{rid} */" : ''
  end

  def answer(status, body)
    text = JSON.generate(body)
    [status, { 'Content-Type' => 'application/json', 'Content-Length' => text.bytesize.to_s }, [text]]
  end
end
