# frozen_string_literal: true

# Puma as it comes: a reactor reads, threads answer. Connections are kept longer than any pause of the demo.
bind 'tcp://127.0.0.1:9080'
threads 4, 8
persistent_timeout 600
environment 'production'
tag 'details'
rackup File.join(__dir__, 'config.ru')
