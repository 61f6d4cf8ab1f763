# frozen_string_literal: true

require_relative 'catalog'
run Catalog.new
