# frozen_string_literal: true

# Four threads, one process. `queue_requests false`: the thread that answers a request also reads it (with the default, Puma's
# reactor thread may read it and hand it over).
bind "tcp://#{ENV.fetch('SHOP_BIND', '127.0.0.1')}:#{ENV.fetch('SHOP_PORT')}"
threads 4, 4
queue_requests false
environment 'production'
tag 'catalog'
rackup File.join(__dir__, 'config.ru')
